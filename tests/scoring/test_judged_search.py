"""The command with a judge behind a real server on loopback, beside a scorer that chooses."""

import json
import sqlite3
from pathlib import Path

import pytest
from chat_server import Chat, ChatServer

from llm_expo.cli import main
from llm_expo.testing import tiny_pair


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    tiny_pair(tmp_path)
    Path("prompts.jsonl").write_text("\n".join(json.dumps({"prompt": f"the cat {'sun ' * i}"}) for i in range(9)))
    Path("judged_rewards.py").write_text("def length(c): return [len(m[-1]['content']) for m in c]\n")


@pytest.fixture
def server():
    server = ChatServer(Chat(answer=lambda text: "A"))
    yield server
    server.close()


def command(*scorers):
    options = "--strategy grid --alphas 2 --prompts prompts.jsonl --max-tokens 6 --device cpu --out study".split()
    return ["search", "theta0", "theta1", *options, *(each for scorer in scorers for each in ("--scorer", scorer))]


def test_a_judge_checks_the_choice_and_its_bill_is_in_the_report(place, server, capsys):
    judge = f"judge:m@{server.url}"
    asked = [*command("function:judged_rewards:length", judge), "--judge-prices", "1,2", "--json"]
    assert main(asked) == 0
    report = json.loads(capsys.readouterr().out)
    [(name, record)] = report["records"].items()
    assert name.startswith("judge:m") and record["bill"]["answers"] == server.chat.tries > 0
    assert record["first"] == 1  # it always says A
    if report["choice"]:
        assert report["decision"]["second"][name]["mean"] == 0  # and so prefers nothing
    tries = server.chat.tries
    assert main(asked) == 0
    assert server.chat.tries == tries


def test_a_judge_that_chooses(place, server, capsys):
    assert main([*command(f"judge:m@{server.url}"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["decision"]["least_gain"] == 0.05
    assert [row["reward"] for row in report["search"]] == [0.5, 0.5]


def test_a_judge_that_is_not_there_is_told_before_anything_is_generated(place, server, capsys):
    server.close()
    assert main(command("function:judged_rewards:length", f"judge:m@{server.url}")) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("llm-expo: error: judge:m") or "m at http" in line
    assert not Path("study").exists()


def test_a_judge_that_is_stuck_ends_the_search_in_a_moment_and_the_same_command_goes_on(place, server, capsys):
    server.chat.hang_after = 2
    asked = [*command(f"judge:m@{server.url}"), "--judge-timeout", "1"]
    assert main(asked) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"llm-expo: error: m at {server.url}/: did not answer a question within 1 s, asked twice; see whether it is "
        "stuck, or, where it is slow, wait longer with --judge-timeout. Answers kept so far: 2; the same command goes "
        "on"
    )
    server.chat.hang_after = 1000
    assert main(asked) == 0
    assert len(server.chat.asked()) == len(set(server.chat.asked()))


def test_scores_from_a_file_are_asked_for_round_by_round(place, capsys):
    Path("scores.jsonl").touch()
    asked = command("file:scores.jsonl")
    turns = 0
    while main(asked) == 1:
        assert "scores.missing.jsonl" in capsys.readouterr().err
        with Path("scores.missing.jsonl").open() as missing, Path("scores.jsonl").open("a") as scores:
            for line in missing:
                scores.write(json.dumps({**json.loads(line), "reward": float(len(line))}) + "\n")
        turns += 1
        assert turns < 6
    assert turns == 3  # theta1, alpha 2, and the finalists
    with sqlite3.connect("study/study.sqlite") as database:
        assert database.execute("SELECT count(*) FROM rewards").fetchone()[0] > 0
