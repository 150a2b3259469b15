"""`search --tax TASKS --max-tax POINTS`: a real search of a tiny pair that may not lose on local tasks."""

import json
from pathlib import Path

import pytest
from local_tasks import write_tasks

from llm_expo.cli import main

pytest.importorskip("lm_eval", reason="lm-eval is not installed")


@pytest.fixture
def place(tmp_path, pair, monkeypatch) -> Path:
    """A working directory with a pair, tasks, prompts, and a scorer to which theta(0.5) does better."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    write_tasks(tmp_path / "tasks")
    Path("prompts.jsonl").write_text("\n".join(json.dumps({"prompt": f"the cat {'sun ' * i}"}) for i in range(36)))
    Path("taxed_rewards.py").write_text("def score(c): return [len(m[-1]['content'].split()) for m in c]\n")
    return tmp_path


def search(out: str, *options: str) -> list[str]:
    usual = "--prompts prompts.jsonl --max-tokens 8 --strategy grid --alphas 0.5,2 --choose best --device cpu"
    return ["search", "theta0", "theta1", *usual.split(), "--scorer", "function:taxed_rewards:score", "--out", out,
            "--json", *options]  # fmt: skip


def test_the_choice_stays_within_the_limit(place, capsys):
    assert main(search("free")) == 0
    free = json.loads(capsys.readouterr().out)
    assert free["limit"] is None
    taxed = "--tax choose:2,mc2 --tasks-from tasks".split()
    assert main(search("lax", *taxed, "--max-tax", "100")) == 0
    lax = json.loads(capsys.readouterr().out)
    assert lax["choice"] == free["choice"] != 0
    [priced] = lax["limit"]["priced"]
    assert priced["alpha"] == lax["choice"] and priced["within"]
    results = json.loads(Path(f"lax/tax/alpha-{lax['choice']:g}/results.json").read_text())["results"]
    theta1 = json.loads(Path("lax/tax/theta1/results.json").read_text())["results"]
    metric = {"choose": "acc_norm,none", "mc2": "acc,none"}
    lost = [100 * (theta1[task].get(key, 0) - results[task].get(key, 0)) for task, key in metric.items()]
    assert priced["price"]["mean"] == pytest.approx(sum(lost) / 2)
    assert "plane.svg" in Path("lax/report.md").read_text() and Path("lax/plane.svg").exists()
    before = Path("lax/tax/theta1/results.json").stat().st_mtime_ns
    assert main(search("lax", *taxed, "--max-tax", "100")) == 0
    assert json.loads(capsys.readouterr().out)["limit"] == lax["limit"]
    assert Path("lax/tax/theta1/results.json").stat().st_mtime_ns == before  # nothing was measured twice
    assert not list(Path("lax").glob("scratch/*"))
    assert main(search("strict", *taxed, "--max-tax", "0.001")) == 0
    strict = json.loads(capsys.readouterr().out)
    assert strict["choice"] == 0 and not any(each["within"] for each in strict["limit"]["priced"])
    assert "No alpha with a gain is within the limit, so theta1 is kept." in Path("strict/report.md").read_text()


def test_what_is_wrong_is_told_before_anything_is_generated(place, capsys):
    status = main(search("s", *"--tax chose --tasks-from tasks --max-tax 2".split()))
    assert status == 1 and "has no task 'chose'; did you mean choose?" in capsys.readouterr().err
    assert not Path("s/study.sqlite").exists()
    for options, words in [
        ("--tax choose", "--tax TASKS and --max-tax POINTS go together"),
        ("--max-tax 1", "--tax TASKS and --max-tax POINTS go together"),
        ("--tax choose --max-tax 0", "--max-tax: a limit is above 0 points"),
        ("--tasks-from tasks", "--tasks-from and --chat-template go with --tax"),
    ]:
        with pytest.raises(SystemExit):
            main(search("s", *options.split()))
        assert words in capsys.readouterr().err
