"""The verbs with theta1 alone, and with checkpoints wherever they may stand on the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llm_expo.checkpoints import Checkpoint
from llm_expo.checkpoints.origins import described
from llm_expo.cli import main
from llm_expo.testing import tiny_pair
from llm_expo.weights import write_difference


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with theta0, theta1, which records its training, and the same as a difference."""
    theta0, theta1 = tiny_pair(tmp_path)
    record = {"training": {}, "initial": described(Checkpoint.open(theta0))}
    (theta1 / "llm_expo.json").write_text(json.dumps(record))
    write_difference(Checkpoint.open(theta0), Checkpoint.open(theta1), tmp_path / "kept")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


@pytest.mark.parametrize(("theta1", "record"), [("theta1", "llm_expo.json"), ("kept", "difference.json")])
def test_apply_and_compare(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,  # the handler that the command line sets up is the first test's of all
    theta1: str,
    record: str,
) -> None:
    assert main(["apply", theta1, *"--alpha 2 --out alone".split()]) == 0
    assert caplog.messages == [f"theta0 is {place}/theta0, as {theta1}/{record} says"]
    caplog.clear()
    assert main(["apply", "theta0", theta1, *"--alpha 2 --out both".split()]) == 0
    assert caplog.messages == []
    capsys.readouterr()
    alone, both = contents("alone"), contents("both")
    # one says where theta0 lies as the record does, the other as it was typed
    assert json.loads(alone.pop("llm_expo.json")) == json.loads(both.pop("llm_expo.json"))
    assert alone == both
    assert main(["compare", theta1, "--json"]) == 0
    one = json.loads(capsys.readouterr().out)
    assert main(["compare", "theta0", theta1, "--json"]) == 0
    assert one["norm"] == json.loads(capsys.readouterr().out)["norm"] > 0


def test_search(place: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    prompts = "\n".join(json.dumps({"prompt": f"cat {i} dog"}) for i in range(12))
    Path("prompts.jsonl").write_text(prompts)
    Path("rewards_alone.py").write_text("def length(c): return [len(m[-1]['content'].split()) for m in c]\n")
    options = "--prompts prompts.jsonl --max-tokens 4 --alphas 0.5 --device cpu --write always --scorer".split()
    assert main(["search", "kept", "--out", "study", *options, "function:rewards_alone:length", "--json"]) == 0
    assert caplog.messages[0] == f"theta0 is {place}/theta0, as kept/difference.json says"
    outcome = json.loads(capsys.readouterr().out)
    assert (outcome["theta0"], outcome["theta1"]) == (f"{place}/theta0", "kept")
    assert not Path("study/scratch").exists()


def test_an_adapter(
    place: Path, causal_model: Callable[..., Path], lora: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    base = causal_model("base")
    lora(base, "adapter")
    assert main("apply adapter --alpha 0.5 --out scaled".split()) == 0
    assert caplog.messages == [f"theta0 is {base}, as adapter/adapter_config.json says"]
    settings = [json.loads(Path(name, "adapter_config.json").read_text()) for name in ("adapter", "scaled")]
    assert settings[1]["lora_alpha"] == 1.5 * settings[0]["lora_alpha"]
    assert main("apply adapter --alpha 0.5 --out whole --merge".split()) == 0
    assert Path("whole/model.safetensors").exists()


@pytest.mark.parametrize("verb", ["apply", "compare", "search"])
def test_without_a_record(place: Path, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    options = {"apply": "--alpha 2 --out new", "compare": "", "search": "--scorer function:json:dumps --out new"}[verb]
    assert main([verb, "theta0", *options.split()]) == 1
    assert capsys.readouterr().err == (
        "llm-expo: error: theta0: no record beside it says from which theta0 it was made (a training's llm_expo.json, "
        "difference.json, or an adapter's settings); give both, theta0 first\n"
    )
    assert not Path("new").exists()


def test_checkpoints_may_stand_anywhere(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, line in enumerate(
        ("theta0 theta1 --alpha 1 --out X", "--alpha 1 theta0 theta1 --out X", "theta0 --alpha 1 --out X theta1",
         "--alpha 1 --out X theta1", "--alpha 1 theta1 --out X")
    ):  # fmt: skip
        assert main(["apply", *line.replace("X", f"out{number}").split()]) == 0
        assert contents(f"out{number}")["model.safetensors"] == contents("out0")["model.safetensors"]
    capsys.readouterr()
    assert main("compare theta0 theta0 --json theta1".split()) == 0
    assert json.loads(capsys.readouterr().out)["sft_to_aligned"]["norm"] > 0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("apply --alpha 1 --out x", "give THETA0 THETA1, or --pair NAME, and not both"),
        ("apply a b c --alpha 1 --out x", "at most 2 checkpoints, and 3 are given: a b c"),
        ("search a b --scorer s --out x c", "at most 2 checkpoints, and 3 are given: a b c"),
        ("compare a b c d", "at most 3 checkpoints, and 4 are given: a b c d"),
        ("compare a b --plto x.svg", "unrecognized arguments: --plto"),
        ("demo extra", "unrecognized arguments: extra"),
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], line: str, words: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(line.split())
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err
