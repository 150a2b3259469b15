"""`llm-expo pairs`, `apply --pair` and `evaluate`, as a user types them."""

import json
from pathlib import Path

import pytest

from llm_expo.cli import main
from llm_expo.testing import tiny_pair


def usage(capsys, arguments: list[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def refused(capsys, arguments: list[str]) -> str:
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    [line] = err.splitlines()
    return line.removeprefix("llm-expo: error: ")


def test_pairs(capsys):
    assert main(["pairs"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("tulu2-7b", "zephyr-7b-dpo", "llama3-8b-simpo"))
    assert main(["pairs", "tulu2-7b"]) == 0
    command = "llm-expo apply allenai/tulu-2-7b allenai/tulu-2-dpo-7b --alpha 0.5 --out tulu2-7b-expo"
    assert command in capsys.readouterr().out
    assert main(["pairs", "tulu2-7b", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["alpha"] == 0.5
    assert main(["pairs", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["pairs"]) == 27
    assert "did you mean tulu2-7b" in refused(capsys, ["pairs", "tulu-7b"])


def test_apply_a_pair_of_a_catalogue_of_ones_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny_pair(tmp_path)
    entry = '[[pair]]\nname = "{}"\ninitial = "theta0"\naligned = "theta1"\n'
    Path("mine.toml").write_text(entry.format("tiny") + "alpha = 0.5\n" + entry.format("open"))
    mine = ["apply", "--catalogue", "mine.toml", "--pair"]
    assert main([*mine, "tiny", "--out", "moved", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["realised_alpha"] == pytest.approx(0.5)
    assert main("apply theta0 theta1 --alpha 0.5 --out same".split()) == 0
    assert Path("moved/model.safetensors").read_bytes() == Path("same/model.safetensors").read_bytes()
    capsys.readouterr()
    assert main([*mine, "tiny", "--alpha", "0.25", "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("alpha 0.25: 21 tensors to move")
    told = refused(capsys, [*mine, "open", "--out", "x"])
    assert told.startswith("open: no alpha was published for it; give --alpha, or search: llm-expo search ")
    assert "no pair is called 'tinny'; did you mean tiny?" in refused(capsys, [*mine, "tinny", "--out", "x"])
    assert "not both" in usage(capsys, [*mine, "tiny", "theta0", "theta1", "--out", "x"])
    assert "give THETA0 THETA1, or --pair NAME" in usage(capsys, "apply --alpha 1 --out x".split())
    assert "--alpha is required, unless with --pair" in usage(capsys, "apply theta0 theta1 --out x".split())
    assert "--catalogue goes with --pair" in usage(capsys, "apply a b --alpha 1 --catalogue c --out x".split())
    assert not Path("x").exists()


def test_the_tax_of_the_official_results(shared_data, capsys):
    path = str(shared_data / "official" / "lm_eval" / "results.json")
    assert main(["evaluate", "--results", path]) == 0
    out = capsys.readouterr().out
    assert "LLaMA3-iterative-DPO-final-ExPO, gsm8k: 67.2 → 59.6, -7.7 ± 1.9 points (p = 4.2e-05): a tax" in out
    assert "40 of 42 cells lie within noise" in out
    assert main(["evaluate", "--results", path, "--json"]) == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert [cell["task"] for cell in cells if cell["significant"]] == ["gsm8k"]


def test_the_figures_of_official_annotations(shared_data, capsys):
    folder = shared_data / "official" / "alpaca_eval"
    paths = [str(folder / f"{name}.annotations.json.gz") for name in ("zephyr-7b-sft-full", "zephyr_0.1")]
    assert main(["evaluate", "--annotations", *paths]) == 0
    out = capsys.readouterr().out
    assert "5.94 ± 0.75" in out
    assert "minimal form" in out
    assert "zephyr_0.1 - zephyr-7b-sft-full: win rate +1.25 ± " in out


def test_evaluate_says_what_is_wrong(tmp_path, capsys):
    missing = str(tmp_path / "none.json")
    assert refused(capsys, ["evaluate", "--results", missing]) == f"{missing}: no such file"
    assert refused(capsys, ["evaluate", "--annotations", missing]) == f"{missing}: no such file"
    assert "--gamed goes with --on alpaca_eval" in usage(capsys, ["evaluate", "--results", missing, "--gamed", "x"])
    assert "give MODEL... --on YARDSTICK --out DIR, or --annotations" in usage(capsys, ["evaluate"])
