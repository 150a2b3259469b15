"""lm-eval's own model on vLLM in a process of its own: the real lm-eval there, with a vLLM of a few lines.

Its model says of each token that its log-probability is minus its id. test_harness_on_vllm.py has the real one.
"""

import json
from pathlib import Path

import pytest
from fake_python import FAKE_VLLM, interpreter, interpreter_with
from local_tasks import samples, told
from transformers import AutoTokenizer

pytest.importorskip("lm_eval", reason="lm-eval is not installed")


@pytest.fixture
def on_vllm(tmp_path) -> list[str]:
    return ["--engine", "vllm", "--vllm-python", str(interpreter_with(tmp_path, FAKE_VLLM))]


def test_its_answers_are_kept_and_paired_like_any_others(pair, tasks, evaluate, on_vllm):
    usual = ["theta0", "theta1", "--batch-size", "7", "--json", *on_vllm]
    status, out, progress = evaluate(*usual, "--tensor-parallel", "2", "--device-memory", "0.5", "--dtype", "bfloat16")
    assert status == 0, progress
    assert progress == [
        f"{m}: {what}" for m in ("theta0", "theta1") for what in ("loading", "choose", "mc2", "generate")
    ]
    found = json.loads(out)
    assert [cell["task"] for cell in found["cells"]] == ["choose", "mc2", "generate"]
    assert [cell["difference"] for cell in found["gold_log_likelihood"]] == [0, 0]
    tokenizer = AutoTokenizer.from_pretrained("theta1")
    for each in samples("theta1", "choose"):
        said = each["doc"]["choices"][each["doc"]["answer"]]
        assert each["gold_log_likelihood"] == -sum(tokenizer(f" {said}")["input_ids"])
    assert samples("theta1", "generate")[0]["resps"] == [["3 tokens at 0.0"]]
    record = json.loads(Path("out/theta1/results.json").read_text())
    assert (record["config"]["model"], record["llm_expo"]["settings"]["engine"]) == ("vllm", "vllm")
    assert (record["llm_expo"]["environment"]["vllm"], record["llm_expo"]["environment"]["tensor parallel"]) == (
        "9.9",
        2,
    )
    log = Path("out/vllm.log").read_text()
    for option in [
        "'dtype', 'bfloat16'",
        "'tensor_parallel_size', 2",
        "'gpu_memory_utilization', 0.5",
        "'max_model_len', -1",
    ]:
        assert option in log

    # Run again, no vLLM is started; with another engine, nothing is added.
    Path("out/vllm.log").unlink()
    same = evaluate(*usual, "--tensor-parallel", "2", "--device-memory", "0.5", "--dtype", "bfloat16")
    assert same == (0, out, [])
    assert not Path("out/vllm.log").exists()
    status, _, lines = evaluate("theta0", "--dtype", "bfloat16", asked="choose:2")
    assert (status, told(lines)) == (
        1,
        "out/theta0/results.json: was made with engine vllm, and now it is transformers; go on with the old setting, "
        "or take another --out",
    )


def test_items_are_asked_as_on_transformers(pair, tasks, evaluate, on_vllm):
    for template in ([], ["--chat-template"]):
        for name, engine in {"one": [], "other": on_vllm}.items():
            path = f"{name}{len(template)}"
            assert evaluate(f"{path}=theta1", *template, "--limit", "6", *engine)[0] == 0
        for task in ("choose", "mc2", "generate"):
            ours, theirs = (samples(f"{name}{len(template)}", task) for name in ("one", "other"))
            for key in ("doc_hash", "prompt_hash", "target_hash", "arguments"):
                assert [each[key] for each in ours] == [each[key] for each in theirs]
            assert [each["resps"] for each in ours] != [each["resps"] for each in theirs]
    assert samples("other1", "choose")[0]["arguments"][0][0].startswith("<|user|> the ")


def test_an_adapter_and_a_difference(pair, tasks, evaluate, on_vllm, lora):
    from llm_expo.checkpoints import Checkpoint
    from llm_expo.weights import write_difference

    write_difference(*map(Checkpoint.open, pair), Path("difference"))
    lora(pair[0], "adapter", target_modules=["q_proj"])
    for name in ("difference", "adapter"):
        status, _, lines = evaluate("theta1", name, "--limit", "4", *on_vllm, asked="choose")
        assert status == 0, lines
        assert "started on out/scratch/theta" in Path("out/vllm.log").read_text()
        assert not Path("out/scratch").exists()


def test_a_run_that_stopped_goes_on(pair, tasks, evaluate, on_vllm, monkeypatch):
    (tasks / "scoring.py").write_text("def mc2(doc, results):\n    raise ValueError('no labels')\n")
    status, _, lines = evaluate("theta1", *on_vllm)
    assert (status, told(lines)) == (1, "theta1: mc2: lm-eval failed: ValueError: no labels")
    status, _, lines = evaluate("theta1", *on_vllm, asked="choose:2,generate")
    assert (status, lines) == (0, ["theta1: loading", "theta1: generate"])
    monkeypatch.setenv("FAKE_VLLM", "die")
    status, _, lines = evaluate("other=theta1", *on_vllm, asked="choose")
    assert status == 1
    assert "was killed (by the system, if memory ran out): RuntimeError: the device is on fire" in told(lines)
    assert told(lines).endswith("its log: out/vllm.log")


def test_interpreters_that_will_not_do(pair, tasks, evaluate, tmp_path):
    def refused(python: Path) -> str:
        status, out, lines = evaluate("theta1", "--engine", "vllm", "--vllm-python", str(python))
        assert (status, out, len(lines)) == (1, "", 1)
        assert not Path("out").exists()
        return told(lines)

    import lm_eval

    install = f"python -m pip install lm-eval=={lm_eval.__version__}"
    assert "absent cannot be run: No such file or directory" in refused(tmp_path / "absent")
    assert "vLLM is not installed there: " in (line := refused(interpreter(tmp_path)))
    assert line.endswith(" -m pip install vllm")
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("import sys\nsys.modules['lm_eval'] = None\n")
    line = refused(interpreter_with(tmp_path, FAKE_VLLM, hidden))
    assert f"lm-eval {lm_eval.__version__} is needed there, as here, and it has none: " in line
    assert line.endswith(install)
    older = tmp_path / "older" / "lm_eval-0.4.1.dist-info"
    older.mkdir(parents=True)
    (older / "METADATA").write_text("Metadata-Version: 2.1\nName: lm_eval\nVersion: 0.4.1\n")
    line = refused(interpreter_with(tmp_path, FAKE_VLLM, older.parent))
    assert "as here, and it has 0.4.1: " in line and line.endswith(install)
