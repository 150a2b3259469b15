"""`llm-expo evaluate MODEL... --on alpaca_eval`: tiny real models, a judge on loopback."""

import json
import shutil
from pathlib import Path

import pytest
from chat_server import Chat, ChatServer

from llm_expo.cli import main
from llm_expo.testing import tiny_pair

pytest.importorskip("sklearn")


@pytest.fixture
def server():
    server = ChatServer(Chat(answer=lambda text: "m" if len(text) % 2 else "M"))
    yield server
    server.close()


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A working directory with a tiny pair and a baseline of 30 instructions."""
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    tiny_pair(tmp_path)
    records = [
        {
            "dataset": "mine",
            "instruction": f"the cat {'sun ' * n}",
            "output": f"good {'sea ' * (n % 7)}",
            "generator": "b",
        }
        for n in range(30)
    ]
    Path("baseline.json").write_text(json.dumps(records))
    return tmp_path


def evaluate(*models: str, more: str = "", baseline: str = "baseline.json") -> list[str]:
    usual = f"--on alpaca_eval --baseline {baseline} --max-tokens 8 --device cpu --out figures {more}"
    return ["evaluate", *models, *usual.split()]


def refused(capsys, arguments: list[str]) -> str:
    capsys.readouterr()
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    return err.splitlines()[-1].removeprefix("llm-expo: error: ")


def test_two_models_are_judged_and_compared(place, server, capsys):
    judged = evaluate("theta0", "theta1", more=f"--judge m@{server.url}")
    assert main(judged) == 0
    told, noted = capsys.readouterr()
    assert f"m: {server.chat.tries} answers, " in noted
    assert "theta1 - theta0: win rate" in told and "NOT the leaderboard's" in told
    outputs = json.loads(Path("figures/theta1/outputs.json").read_text())
    assert len(outputs) == 30 and outputs[0].keys() == {"dataset", "instruction", "output", "generator"}
    tries = server.chat.tries
    assert tries > 0
    replies = Path("figures/theta0/replies.jsonl").read_bytes()
    assert main([*judged, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert server.chat.tries == tries  # paid once
    assert Path("figures/theta0/replies.jsonl").read_bytes() == replies
    # What was made is what the other ways of coming here take.
    assert main(["evaluate", "--annotations", *(f"figures/{name}/annotations.json" for name in ("theta0", "theta1")),
                 "--json"]) == 0  # fmt: skip
    assert json.loads(capsys.readouterr().out) == figures
    files = [f"{name}=figures/{name}/outputs.json" for name in ("theta0", "theta1")]
    assert main([*evaluate(*files, more=f"--judge m@{server.url} --json")]) == 0
    assert json.loads(capsys.readouterr().out) == figures
    assert server.chat.tries == tries
    files = [f"{name}={Path('figures', name, 'outputs.json').rename(f'{name}.json')}" for name in ("theta0", "theta1")]
    shutil.rmtree("figures")
    assert main([*evaluate(*files, more=f"--judge m@{server.url} --json")]) == 0
    assert json.loads(capsys.readouterr().out) == figures


def test_outputs_alone(place, capsys):
    assert main(evaluate("theta1", more="--limit 4")) == 0
    out, err = capsys.readouterr()
    assert out.strip() == "figures/theta1/outputs.json"
    assert "--judge MODEL@URL judges these" in err
    assert len(json.loads(Path("figures/theta1/outputs.json").read_text())) == 4


def test_what_cannot_be_evaluated(place, server, capsys):
    url = server.url
    assert "nowhere: " in refused(capsys, evaluate("nowhere"))
    assert "absent.json: no such file" in refused(capsys, evaluate("theta1", baseline="absent.json"))
    assert refused(capsys, evaluate("theta1", baseline="hub:alpaca")).endswith("write hub:ORG/DATASET/FILE")
    other = [{"instruction": "another", "output": "x"}]
    Path("other.json").write_text(json.dumps(other))
    told = refused(capsys, evaluate("other.json", more=f"--judge m@{url}"))
    assert "answers 30 instructions and other.json 1" in told
    assert "both called theta1; write NAME=theta1" in refused(capsys, evaluate("theta1", "theta1"))
    assert main(evaluate("theta1")) == 0
    assert "made with max_tokens 8, and now it is 9" in refused(capsys, evaluate("theta1", more="--max-tokens 9"))
    server.close()
    told = refused(capsys, evaluate("theta1", more=f"--judge m@{url}"))
    assert "m at http://127.0.0.1" in told


def test_no_chat_template(place, capsys):
    template = Path("theta1/chat_template.jinja")
    settings = Path("theta1/tokenizer_config.json")
    template.unlink(missing_ok=True)
    settings.write_text(json.dumps({key: value for key, value in json.loads(settings.read_text()).items()
                                    if key != "chat_template"}))  # fmt: skip
    assert "chat template" in refused(capsys, evaluate("theta1"))


def test_wrong_usage(capsys):
    for arguments, words in [
        (["evaluate"], "give MODEL... --on YARDSTICK --out DIR, or --annotations"),
        (["evaluate", "m", "--on", "alpaca_eval"], "--on and --out are required with MODEL"),
        (["evaluate", "m", "--annotations", "a"], "give MODEL"),
        (evaluate("m", more="--template t"), "--template goes with --judge"),
        (evaluate("m", more="--questions q"), "--questions goes with --on mt_bench"),
        (["evaluate", "--results", "r", "--gamed", "g"], "--gamed goes with --on alpaca_eval"),
        (evaluate("m", more="--engine ray --tensor-parallel 2"), "--tensor-parallel goes with the engine vllm"),
    ]:
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
        assert words in capsys.readouterr().err
