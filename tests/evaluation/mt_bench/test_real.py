"""A real model answers, and one judges through a server that is not ours. SmolLM2 can do neither well."""

import json
from pathlib import Path

import pytest
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
    # Greedy, it repeats itself up to 2048 tokens. A server takes what it is not told from the model's own settings.
    judge = Path("judge")
    judge.mkdir()
    for each in Path("smollm2").iterdir():
        (judge / each.name).symlink_to(each.absolute())
    settings = json.loads((judge / "generation_config.json").read_text())
    vocabulary = json.loads((judge / "tokenizer.json").read_text())["model"]["vocab"]
    ends = [settings["eos_token_id"], vocabulary["Ċ"], vocabulary["ĊĊ"]]
    (judge / "generation_config.json").unlink()
    (judge / "generation_config.json").write_text(
        json.dumps({**settings, "eos_token_id": ends, "repetition_penalty": 1.2})
    )
    capsys.readouterr()
    with transformers_serve(tmp_path / "judge", tmp_path / "serve.log") as (url, _):
        status = main([*answer, "--judge", f"{tmp_path / 'judge'}@{url}"])
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
