"""lm-evaluation-harness on real, tiny models and local tasks of the leaderboard's forms."""

import json
from pathlib import Path

import pytest
from local_tasks import samples, told

from llm_expo.checkpoints import Checkpoint
from llm_expo.cli import main
from llm_expo.evaluation.lm_eval.results import read_results

pytest.importorskip("lm_eval", reason="lm-eval is not installed")


def test_two_models_item_by_item(pair, tasks, evaluate, capsys):
    status, out, progress = evaluate("theta0", "theta1", "--json")
    assert status == 0
    assert progress == [
        f"{m}: {what}" for m in ("theta0", "theta1") for what in ("loading", "choose", "mc2", "generate")
    ]
    found = json.loads(out)
    assert found["chat_template"] is False
    before, after = samples("theta0", "choose"), samples("theta1", "choose")
    assert [each["prompt_hash"] for each in before] == [each["prompt_hash"] for each in after]
    assert before[0]["arguments"][0][0].count("\n\n") == 2  # two shots
    assert all(len(each["arguments"]) == 4 for each in before)
    for each in before:
        assert each["gold_log_likelihood"] == each["resps"][each["doc"]["answer"]][0][0]
    cells = {cell["task"]: cell for cell in found["cells"]}
    assert list(cells) == ["choose", "mc2", "generate"]
    mean = 100 * sum(each["acc_norm"] for each in after) / 24
    assert cells["choose"]["after"] == pytest.approx(mean)
    assert {task: cell["test"] for task, cell in cells.items()} == {
        "choose": "McNemar",
        "mc2": "paired t",
        "generate": "McNemar",
    }
    golds = {cell["task"]: cell for cell in found["gold_log_likelihood"]}
    assert list(golds) == ["choose", "mc2"]
    gold = sum(each["gold_log_likelihood"] for each in after) / 24
    assert golds["choose"]["after"] == pytest.approx(gold)

    # lm-eval's own file, which --results reads; there the items are not known.
    [results] = read_results(Path("out/theta1/results.json"))
    assert results.model == "theta1"
    assert results.scores["choose"].value == pytest.approx(mean)
    assert main(["evaluate", "--results", "out/theta0/results.json", "out/theta1/results.json", "--json"]) == 0
    unpaired = json.loads(capsys.readouterr().out)["cells"]
    assert [cell["difference"] for cell in unpaired] == pytest.approx([cell["difference"] for cell in cells.values()])
    assert {cell["test"] for cell in unpaired} == {"unpaired normal"}

    # Run again, nothing is asked; a task more, and only that is asked, of both.
    kept = {path: path.read_bytes() for path in Path("out").rglob("*.json*")}
    assert evaluate("theta0", "theta1", "--json") == (0, out, [])
    assert kept == {path: path.read_bytes() for path in Path("out").rglob("*.json*")}
    status, out, progress = evaluate("theta0", "theta1", asked="mc2,choose:2")
    assert (status, progress) == (0, [])
    assert "Asked by lm-eval's plain text" in out
    assert "Points, after - before, item by item" in out


def test_answers_are_those_of_lm_evals_own_command(pair, tasks, evaluate, monkeypatch):
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    assert evaluate("theta1", asked="choose:3,generate")[0] == 0
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)  # it looks the machine over
    manager = TaskManager(include_path="tasks", include_defaults=False)
    for task in ("choose", "generate"):
        shots = {"choose": 3, "generate": None}[task]
        lm = HFLM("theta1", device="cpu", batch_size=32)
        found = lm_eval.simple_evaluate(lm, tasks=[task], num_fewshot=shots, task_manager=manager)
        kept = json.loads(Path("out/theta1/results.json").read_text())
        assert kept["results"][task] == found["results"][task]
        assert kept["n-shot"][task] == found["n-shot"][task]
        ours = [(each["prompt_hash"], each["filtered_resps"]) for each in samples("theta1", task)]
        theirs = [(each["prompt_hash"], each["filtered_resps"]) for each in found["samples"][task]]
        assert ours == [(prompt, json.loads(json.dumps(replies))) for prompt, replies in theirs]


def test_a_run_that_stopped_goes_on(pair, tasks, evaluate, monkeypatch):
    from llm_expo.evaluation.lm_eval import harness

    def killed(lm, name, *rest):
        if name == "mc2":
            raise KeyboardInterrupt
        return put(lm, name, *rest)

    put = harness.put
    monkeypatch.setattr(harness, "put", killed)
    assert evaluate("theta1", asked="both")[0] == 130
    assert list(json.loads(Path("out/theta1/results.json").read_text())["results"]) == ["choose"]
    monkeypatch.setattr(harness, "put", put)
    status, out, progress = evaluate("theta1", asked="both,generate")
    assert (status, progress) == (0, ["theta1: loading", "theta1: mc2", "theta1: generate"])
    assert [*out.split()[:4]] == ["model", "choose", "mc2", "generate"]
    assert "after - before" not in out
    assert evaluate("theta1", asked="generate,both")[2] == []


def test_what_was_begun_otherwise_is_refused(pair, tasks, evaluate):
    assert evaluate("theta1", "--limit", "3", asked="choose")[0] == 0
    assert len(samples("theta1", "choose")) == 3
    status, out, lines = evaluate("theta1", asked="choose")
    assert (status, out) == (1, "")
    path = Path("out/theta1/results.json")
    assert lines == [
        f"llm-expo: error: {path}: was made with limit 3, and now it is None; go on with the old setting, or take "
        "another --out"
    ]
    assert "made with chat template False, and now it is True" in told(
        evaluate("theta1", "--limit", "3", "--chat-template", asked="choose")[2]
    )
    assert told(evaluate("theta1", "--limit", "3", asked="choose:1")[2]) == (
        f"{path}: choose was asked with the task's own shots, and now with 1 shots; take another --out"
    )
    record = json.loads(path.read_text())
    assert record["llm_expo"]["settings"].pop("engine") == "transformers"  # which was not noted at first
    path.write_text(json.dumps(record))
    assert evaluate("theta1", "--limit", "3", asked="choose")[0] == 0
    assert "made with theta0 " in told(evaluate("theta1=theta0", "--limit", "3", asked="choose")[2])
    path.write_text('{"results": {}}')
    assert "was not made by this command" in told(evaluate("theta1", "--limit", "3", asked="choose")[2])


def test_through_the_chat_template(pair, tasks, evaluate):
    status, out, _ = evaluate("theta1", "--chat-template", "--limit", "4", asked="choose:1")
    assert status == 0
    assert "Asked through each model's chat template" in out
    prompt = samples("theta1", "choose")[0]["arguments"][0][0]
    assert prompt.startswith("<|user|> the ")
    assert prompt.count("<|assistant|>") == 2
    assert json.loads(Path("out/theta1/results.json").read_text())["chat_template"].startswith("{% for message")
    Path("theta1/chat_template.jinja").unlink()
    assert "theta1: has no chat template" in told(
        evaluate("bare=theta1", "--chat-template", "--limit", "4", asked="choose:1")[2]
    )


def test_an_adapter_and_a_difference(pair, tasks, evaluate, lora):
    from llm_expo.weights import write_difference

    write_difference(*map(Checkpoint.open, pair), Path("difference"))
    lora(pair[0], "adapter", target_modules=["q_proj"])
    arguments = ("theta1", "difference", "adapter", "--limit", "8", "--json")
    status, out, lines = evaluate(*arguments, asked="choose")
    assert status == 0, lines
    changed = {cell["model"]: cell for cell in json.loads(out)["gold_log_likelihood"]}
    assert abs(changed["difference"]["difference"]) < 0.1  # the difference was rounded
    assert abs(changed["adapter"]["difference"]) > 0.1
    assert not Path("out/scratch").exists()


@pytest.mark.parametrize(
    ("arguments", "asked", "line"),
    [
        (["theta1"], "brier", "brier: measures brier_score, and no share of right answers to compare"),
        (["theta1"], "mc2:3", "mc2: asked for with 3 shots, and the task itself demands 0"),
        (["none"], "choose", "none: no such folder"),
        (["tasks/items.jsonl"], "choose", "items.jsonl: is a file; results made elsewhere go to --results"),
    ],
)
def test_what_is_told_in_one_line(pair, tasks, evaluate, arguments, asked, line):
    status, out, lines = evaluate(*arguments, asked=asked)
    assert (status, out, len(lines)) == (1, "", 1)
    assert line in lines[0]
    assert not Path("out").exists()


def test_a_folder_without_tasks(pair, tasks, evaluate):
    for path in tasks.iterdir():
        path.unlink()
    assert "tasks: holds no task that lm-eval can read; a task is a YAML file" in told(evaluate("theta1")[2])


@pytest.mark.slow  # lm-eval reads all its tasks
def test_a_task_that_is_not_there_and_one_without_network(pair, tasks, evaluate):
    status, out, [line] = evaluate("theta1", asked="chose")
    assert (status, out) == (1, "")
    assert "has no task 'chose'; did you mean choose?; tasks has both, brier, choose, generate, mc2" in line
    status, out, [line] = evaluate("theta1", asked="arc_challenge")
    assert (status, out) == (1, "")
    assert "the task arc_challenge cannot be loaded: ConnectionError: Couldn't reach" in line
    assert "lm-eval fetches data from the hub, unless the cache has them" in line
    assert not Path("out").exists()


def test_a_model_that_fails_leaves_what_was_finished(pair, tasks, evaluate):
    (tasks / "scoring.py").write_text("def mc2(doc, results):\n    raise ValueError('no labels')\n")
    status, _, lines = evaluate("theta0", asked="choose,mc2,generate")
    assert (status, told(lines)) == (1, "theta0: mc2: lm-eval failed: ValueError: no labels")
    assert list(json.loads(Path("out/theta0/results.json").read_text())["results"]) == ["choose"]
    Path("theta1/model.safetensors").write_bytes(b"broken")
    status, _, lines = evaluate("theta0", "theta1", asked="choose")
    assert status == 1
    assert "theta1" in told(lines)
    assert Path("out/theta0/samples_choose.jsonl").exists()


def test_usage(pair, capsys):
    def refused(*arguments: str) -> str:
        with pytest.raises(SystemExit):
            main(["evaluate", "theta1", "--on", "lm_eval", "--out", "out", *arguments])
        return capsys.readouterr().err.splitlines()[-1]

    assert "--fast is a choice of tasks; give it or --tasks" in refused("--fast", "--tasks", "gsm8k")
    assert "--on lm_eval asks models through transformers or vllm, not ray" in refused("--engine", "ray")
    assert "the engine vllm needs --vllm-python PATH" in refused("--engine", "vllm")
    assert "--judge goes with another yardstick" in refused("--judge", "m@http://127.0.0.1:1/v1")


def test_without_lm_eval(pair, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["evaluate", str(pair[1]), "--on", "lm_eval", "--out", "out"]) == 1
    assert "lm-eval is not installed; it comes with: pip install 'llm-expo[lm-eval]'" in capsys.readouterr().err
