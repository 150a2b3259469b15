"""A real model answers, and is judged by itself, through a server that is not ours, and by one that always rates.

SmolLM2 does neither well: as a judge it may give no rating at all, and then the command says so.
"""

import json
from pathlib import Path

import pytest
from chat_server import Chat, ChatServer
from serving import transformers_serve

from llm_expo.cli import main
from llm_expo.demo.pair import write_theta0
from llm_expo.evaluation.mt_bench.judge import rating
from llm_expo.evaluation.mt_bench.judgements import read_judgements

pytestmark = pytest.mark.slow

ASK = "Rate the answer to the question from 1 to 10. Write nothing but the rating, such as [[5]].\n\n"
TURN, TURNS = "Question: {question}\nAnswer: {answer}", "Question: {question_2}\nAnswer: {answer_2}"
BEFORE = "Earlier question: {question_1}\nEarlier answer: {answer_1}\n"


def test_smollm2_answers_and_judges(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_theta0(Path("smollm2"))
    Path("bench").mkdir()
    questions = [
        {"question_id": 1, "category": "writing", "turns": ["Write a line about rain.", "Now one about snow."]},
        {"question_id": 2, "category": "stem", "turns": ["What is ice?", "And steam?"]},
        {"question_id": 3, "category": "math", "turns": ["What is 2 + 3?", "Double it."]},
    ]
    reference = {"question_id": 3, "choices": [{"turns": ["5", "10"]}]}
    texts = {
        "single-v1": ASK + TURN,
        "single-math-v1": ASK + "Right answer: {ref_answer_1}\n" + TURN,
        "single-v1-multi-turn": ASK + BEFORE + TURNS,
        "single-math-v1-multi-turn": ASK + BEFORE + "Right answers: {ref_answer_1}, {ref_answer_2}\n" + TURNS,
    }
    prompts = [{"name": name, "system_prompt": "", "prompt_template": text} for name, text in texts.items()]
    for name, records in (
        ("question", questions),
        ("reference_answer_gpt-4", [reference]),
        ("judge_prompts", prompts),
    ):
        Path("bench", f"{name}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))

    answer = ["evaluate", "smollm2", "--on", "mt_bench", "--questions", "bench", "--out", "out"]
    answer += ["--max-tokens", "24", "--device", "cpu"]
    assert main(answer) == 0
    made = Path("out/model_answer/smollm2.jsonl").read_text()
    # Greedy, it goes in circles for all of the 2048 tokens that a judge is given: minutes for each judgement.
    monkeypatch.setattr("llm_expo.evaluation.mt_bench.judge._MAX_TOKENS", 24)
    capsys.readouterr()
    with transformers_serve(tmp_path / "smollm2", tmp_path / "serve.log") as (url, _):
        status = main([*answer, "--judge", f"{tmp_path / 'smollm2'}@{url}"])
    out = capsys.readouterr().out
    turns = [json.loads(line)["choices"] for line in Path("out/model_answer/smollm2.jsonl").read_text().splitlines()]
    assert turns == [json.loads(line)["choices"] for line in made.splitlines()]
    [path] = Path("out/model_judgment").iterdir()
    judgements = read_judgements([path])
    assert [(each.question, each.turn) for each in judgements] == [(q, turn) for q in (1, 2, 3) for turn in (1, 2)]
    assert all(each.score == rating(each.said) for each in judgements)
    without = sum(each.score is None for each in judgements)
    told = f"{without} of 6 judgements hold no rating" in out
    assert (status, told) == ((1, False) if without == 6 else (0, without > 0))

    # To the scores, whatever SmolLM2 said: its answers, from FastChat's file, before a judge that always rates.
    server = ChatServer(Chat(answer=lambda asked: f"Rating: [[{1 + len(asked) % 10}]]"))
    again = [each if each != "smollm2" else "smollm2=out/model_answer/smollm2.jsonl" for each in answer]
    assert main([*again, "--judge", f"fixed@{server.url}", "--json"]) == 0
    server.close()
    [model] = json.loads(capsys.readouterr().out)["models"]
    rated = read_judgements([Path("out/model_judgment/fixed_single.jsonl")])
    assert model["totals"]["average"]["mean"] == pytest.approx(sum(1 + len(each.prompt) % 10 for each in rated) / 6)
    assert list(model["categories"]) == ["writing", "stem", "math"]
