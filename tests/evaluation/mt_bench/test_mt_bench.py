"""`llm-expo evaluate MODEL... --on mt_bench`, as a user types it, on a tiny pair and with a judge on loopback."""

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from chat_server import Chat, ChatServer

from llm_expo.cli import main
from llm_expo.cli.engines import sampling_of
from llm_expo.cli.main import parsed
from llm_expo.evaluation.models import Model
from llm_expo.evaluation.mt_bench.answers import Answers, read_answers, write_answers
from llm_expo.evaluation.mt_bench.judgements import read_judgements
from llm_expo.evaluation.mt_bench.questions import Question, read_questions
from llm_expo.evaluation.mt_bench.run import make_answers
from llm_expo.generation import Prompt, Sampling
from llm_expo.testing import FakeEngine, tiny_pair

SAID = (
    (81, "writing", "the cat sings", "and the dog"),
    (82, "writing", "the red sun", "then the sea"),
    (121, "math", "one cat and one dog", "a new tree"),
    (141, "stem", "old tree", "good cat"),
)
_REFERENCE = "\nReference: {ref_answer_1}"
TEMPLATES = {
    "single-v1": "Question: {question}\nAnswer: {answer}",
    "single-math-v1": "Question: {question}" + _REFERENCE + "\nAnswer: {answer}",
    "single-v1-multi-turn": "{question_1} / {answer_1} / {question_2}\nAnswer: {answer_2}",
    "single-math-v1-multi-turn": "{question_1} / {answer_1} / {question_2}"
    + _REFERENCE
    + " / {ref_answer_2}\nAnswer: {answer_2}",
}


def rated(text: str) -> str:
    """More for longer answers; the second turn of question 82 has no rating."""
    if "then the sea" in text:
        return "I like it."
    answer = text.rpartition("Answer: ")[2]
    return f"It is so long. Rating: [[{1 + len(answer) % 10}]]"


@pytest.fixture
def server():
    server = ChatServer(Chat(answer=rated))
    yield server
    server.close()


@pytest.fixture
def bench(tmp_path, monkeypatch) -> Path:
    """The working folder: theta0, theta1, and the questions in FastChat's layout."""
    monkeypatch.chdir(tmp_path)
    tiny_pair(tmp_path)
    Path("data/mt_bench").mkdir(parents=True)
    questions = [{"question_id": id_, "category": kind, "turns": turns} for id_, kind, *turns in SAID]
    prompts = [{"name": name, "system_prompt": "Judge.", "prompt_template": text} for name, text in TEMPLATES.items()]
    for path, records in (("mt_bench/question.jsonl", questions), ("judge_prompts.jsonl", prompts)):
        Path("data", path).write_text("".join(json.dumps(each) + "\n" for each in records))
    references = Answers("", {121: ("two", "three")})
    write_answers(Path("data/mt_bench/reference_answer/gpt-4.jsonl"), "gpt-4", references)
    return tmp_path


def command(*more: str, models: str = "theta0 theta1") -> list[str]:
    return [
        *("evaluate", *models.split(), "--on", "mt_bench", "--questions", "data/mt_bench", "--out", "out"),
        *("--max-tokens", "6", "--device", "cpu", *more),
    ]


def refused(capsys, arguments: list[str]) -> str:
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()[-1].removeprefix("llm-expo: error: ")


def usage(capsys, arguments: list[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_from_models_to_scores(bench, server, capsys):
    judged = command("--judge", f"org/judge@{server.url}")
    assert main(judged) == 0
    out = capsys.readouterr().out
    assert "theta1 - theta0" in out
    assert "humanities" not in out
    assert "theta0: 1 of 8 judgements hold no rating and are left out: turn 2 of question 82" in out

    questions = read_questions(Path("data/mt_bench"))
    answers = {name: read_answers(Path(f"out/model_answer/{name}.jsonl"), questions) for name in ("theta0", "theta1")}
    assert all(list(each.turns) == [81, 82, 121, 141] for each in answers.values())
    judgements = read_judgements([Path("out/model_judgment/org__judge_single.jsonl")])
    assert [(each.model, each.question, each.turn) for each in judgements] == [
        (model, id_, turn) for model in ("theta0", "theta1") for id_, *_ in SAID for turn in (1, 2)
    ]
    for each in judgements:
        one, two = answers[each.model].turns[each.question]
        asked = next(question.turns for question in questions if question.id == each.question)
        assert each.template.startswith("single-math" if each.question == 121 else "single-v1")
        assert each.prompt.startswith(
            f"{asked[0]} / {one} / {asked[1]}\n" if each.turn == 2 else f"Question: {asked[0]}"
        )
        assert ("Reference: two" in each.prompt) == (each.question == 121)
        assert each.prompt.endswith(f"Answer: {two if each.turn == 2 else one}")
        assert each.said == rated(each.prompt)

    asked = server.chat.requests
    assert len(asked) == len({each.prompt for each in judgements})
    assert {(each["temperature"], each["max_tokens"]) for each in asked} == {(0, 2048)}
    assert asked[0]["messages"][0] == {"role": "system", "content": "Judge."}

    # Whatever was made is there: no model, no judge.
    before, tries = out, server.chat.tries
    server.chat.key = "another"
    assert main(judged) == 0
    assert capsys.readouterr().out == before
    again = ["evaluate", "--judgements", "out/model_judgment/org__judge_single.jsonl"]
    assert main([*again, "--questions", "data/mt_bench"]) == 0
    assert capsys.readouterr().out == before
    assert main(again) == 0
    assert "writing" not in capsys.readouterr().out
    assert main([*again, "--json"]) == 0
    compared = json.loads(capsys.readouterr().out)
    assert [each["model"] for each in compared["models"]] == ["theta0", "theta1"]
    ratings = [each.score for each in judgements[:8] if each.score is not None]
    assert compared["models"][0]["totals"]["average"]["mean"] == pytest.approx(sum(ratings) / 7)
    assert compared["differences"][0]["totals"]["turn 1"]["n"] == 4
    answered = "theta0=out/model_answer/theta0.jsonl theta1=out/model_answer/theta1.jsonl"
    assert main(command("--judge", f"org/judge@{server.url}", models=answered)) == 0
    assert capsys.readouterr().out == before
    assert server.chat.tries == tries


def test_without_a_judge_answers_are_made_and_can_be_judged_elsewhere(bench, server, capsys):
    assert main(command("--limit", "1", models="theta1")) == 0
    out, err = capsys.readouterr()
    assert out == "out/model_answer/theta1.jsonl\n"
    assert "--judge MODEL@URL judges these" in err
    path = Path("out/model_answer/theta1.jsonl")
    few = [json.loads(line)["question_id"] for line in path.read_text().splitlines()]
    assert few == [81, 121, 141]
    elsewhere = command("--judge", f"judge@{server.url}", models=f"mine={path}")
    told = refused(capsys, elsewhere)
    assert told == "out/model_answer/theta1.jsonl: lacks the answers to 1 of 4 questions, such as 82 (writing)"
    elsewhere[elsewhere.index("--out") + 1] = "fresh"
    assert main([*elsewhere, "--limit", "1"]) == 0
    assert {each.model for each in read_judgements([Path("fresh/model_judgment/judge_single.jsonl")])} == {"mine"}
    # With all questions, what is there is not made again.
    replies = Path("out/theta1/replies-0.7.jsonl").read_text()
    assert main(command(models="theta1")) == 0
    assert Path("out/theta1/replies-0.7.jsonl").read_text().startswith(replies)


def test_a_judge_that_fails(bench, server, capsys):
    down = command("--judge", "judge@http://127.0.0.1:9/v1")
    assert "judge at http://127.0.0.1:9/v1/: cannot be reached" in refused(capsys, down)
    assert not Path("out").exists()  # before hours of replies

    judge = ("--judge", f"judge@{server.url}")
    assert main(command(*judge, models="theta0")) == 0
    capsys.readouterr()
    asked = len(server.chat.requests)
    server.chat.key = "another"
    told = refused(capsys, command(*judge))
    assert "refuses the key: 'Incorrect API key provided.'" in told
    assert "Answers kept so far: " in told
    server.chat.key = None
    assert main(command(*judge)) == 0
    capsys.readouterr()
    assert len(server.chat.requests) <= 2 * asked

    server.chat.answer = lambda text: "Both are fine."
    told = refused(capsys, command("--judge", f"dull@{server.url}", models="theta0"))
    assert told.startswith(
        "theta0: none of its 8 judgements holds a rating such as [[5]]; the first says 'Both are fine.'"
    )
    assert [each.score for each in read_judgements([Path("out/model_judgment/dull_single.jsonl")])] == [None] * 8


def test_what_a_judge_refuses_has_no_rating(bench, server, capsys):
    server.chat.too_long = max(len(text) for text in TEMPLATES.values())
    assert main(command("--judge", f"judge@{server.url}", models="theta0")) == 0
    assert "judgements hold no rating and are left out" in capsys.readouterr().out
    judgements = read_judgements([Path("out/model_judgment/judge_single.jsonl")])
    assert "$ERROR$" in {each.said for each in judgements}


def test_bad_input(bench, server, capsys):
    judge = ("--judge", f"judge@{server.url}")
    assert "--on mt_bench needs --questions DIR" in usage(capsys, "evaluate m --on mt_bench --out out".split())
    assert "--questions goes with --on mt_bench" in usage(
        capsys, "evaluate m --on alpaca_eval --questions data --out out".split()
    )
    Path("data/mt_bench/reference_answer/gpt-4.jsonl").rename("data/gpt-4.jsonl")
    assert "the reference answers by which 1 of 4 questions are judged" in refused(capsys, command(*judge))
    Path("data/judge_prompts.jsonl").unlink()
    assert refused(capsys, command(*judge)).startswith("data/mt_bench: no judge_prompts.jsonl, neither there nor in")
    Path("data/mt_bench/question.jsonl").write_text("{}\n")
    assert "question.jsonl, line 1: no `question_id`" in refused(capsys, command())
    Path("data/mt_bench/question.jsonl").unlink()
    assert refused(capsys, command()) == "data/mt_bench/question.jsonl: no such file"
    assert refused(capsys, ["evaluate", "--judgements", "none.jsonl"]) == "none.jsonl: no such file"
    assert not Path("out").exists()


class Listening(FakeEngine):
    """Notes what it is asked."""

    def __init__(self, sampling: Sampling, heard: list[Prompt]) -> None:
        super().__init__(lambda alpha: alpha)
        self._sampling = sampling
        self._heard = heard

    @property
    def settings(self):
        return {"temperature": self._sampling.temperature}

    def encode(self, prompts):
        self._heard += prompts
        return super().encode(prompts)


def test_turn_two_is_asked_with_the_reply_to_turn_one_at_the_categorys_temperature(tmp_path):
    questions = [Question(id_, kind, (one, two)) for id_, kind, one, two in SAID]
    heard: list[Prompt] = []
    used: list[Sampling] = []

    def opened(model: Model, sampling: Sampling):
        used.append(sampling)
        return nullcontext(Listening(sampling, heard))

    def made(sampled=lambda usual: usual):
        return make_answers([Model("m", "org/m")], questions, sampled, opened, tmp_path, 2, lambda *_: None)

    [answers] = made().values()
    assert [(each.temperature, each.top_k, each.top_p, each.max_tokens) for each in used] == [
        (warmth, 50, 1.0, 1024) for warmth in (0.7, 0.0, 0.1)
    ]
    assert all(each.presence_penalty == each.frequency_penalty == 0 for each in used)
    by_id = {prompt.id: [message["content"] for message in prompt.messages] for prompt in heard}
    assert by_id["82, turn 1"] == ["the red sun"]
    assert by_id["82, turn 2"] == ["the red sun", answers.turns[82][0], "then the sea"]
    assert [message["role"] for message in heard[-1].messages] == ["user", "assistant", "user"]
    heard.clear()
    assert made() == {tmp_path / "model_answer" / "m.jsonl": answers}
    assert heard == []
    used.clear()
    made(lambda usual: replace(usual, temperature=0.7, max_tokens=1))  # what the user says holds for all
    assert len(used) == 1


def test_what_the_user_says_of_sampling_wins():
    usual = Question(121, "math", ("a", "b")).sampling
    base = ["evaluate", "m", "--on", "mt_bench", "--questions", "d", "--out", "o"]
    assert sampling_of(parsed(base), usual) == usual
    assert sampling_of(parsed([*base, "--max-tokens", "64", "--seed", "1"]), usual) == replace(
        usual, max_tokens=64, seed=1
    )
    assert sampling_of(parsed(base)) == Sampling()
