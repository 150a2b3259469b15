"""Tasks of the leaderboard's forms, with a few dozen items each, in the words of `tiny_pair`."""

import json
import random
from pathlib import Path

from llm_expo.testing import WORDS

_DATA = """
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
fewshot_split: test
"""
_CHOICE = """task: {name}
output_type: multiple_choice
doc_to_text: "the {{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
doc_to_choice: "{{{{choices}}}}"
metric_list:
  - metric: acc
  - metric: acc_norm
"""
_MC2 = """task: {name}
output_type: multiple_choice
num_fewshot: 0
doc_to_text: "the {{{{question}}}}"
doc_to_target: 0
doc_to_choice: "{{{{choices}}}}"
process_results: !function scoring.mc2
metric_list:
  - metric: acc
"""
_GENERATE = """task: {name}
output_type: generate_until
doc_to_text: "the {{{{question}}}}"
doc_to_target: "{{{{choices[answer]}}}}"
generation_kwargs:
  until: [" and"]
  max_gen_toks: 3
filter_list:
  - name: first
    filter:
      - function: regex
        regex_pattern: "(\\\\w+)"
      - function: take_first
metric_list:
  - metric: exact_match
"""
_SCORING = """import math

def mc2(doc, results):
    probabilities = [math.exp(value) for value, _ in results]
    return {"acc": sum(probabilities[:2]) / sum(probabilities)}
"""


def write_tasks(folder: Path, items: int = 24) -> Path:
    """Tasks choose, mc2, generate, a group `both` of the first two, and one without a share of right answers."""
    folder.mkdir()
    draw = random.Random(0)
    docs = [
        {"question": " ".join(draw.choices(WORDS, k=3)), "choices": draw.sample(WORDS, 4), "answer": draw.randrange(4)}
        for _ in range(items)
    ]
    data = folder / "items.jsonl"
    data.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    for name, form in {"choose": _CHOICE, "mc2": _MC2, "generate": _GENERATE}.items():
        (folder / f"{name}.yaml").write_text((form + _DATA).format(name=name, data=data))
    (folder / "scoring.py").write_text(_SCORING)
    (folder / "both.yaml").write_text("group: both\ntask: [choose, mc2]\n")
    bad = _CHOICE.partition("metric_list")[0] + "metric_list:\n  - metric: brier_score\n" + _DATA
    (folder / "brier.yaml").write_text(bad.format(name="brier", data=data))
    return folder


def told(lines: list[str]) -> str:
    """The error that the command ended with."""
    return lines[-1].removeprefix("llm-expo: error: ")


def samples(model: str, task: str) -> list[dict]:
    """What `evaluate --out out` kept of a model and a task."""
    return [json.loads(line) for line in Path(f"out/{model}/samples_{task}.jsonl").read_text().splitlines()]
