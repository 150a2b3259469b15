"""Which tasks are asked for, and with how many shots. Knows names, nothing of what is behind them."""

from dataclasses import dataclass

from llm_expo.errors import EvaluationError


@dataclass(frozen=True, slots=True)
class Asked:
    """A task, group or tag of lm-evaluation-harness; `shots` None leaves their number to the task."""

    name: str
    shots: int | None = None


LEADERBOARD = (
    Asked("arc_challenge", 25),
    Asked("hellaswag", 10),
    Asked("mmlu", 5),
    Asked("truthfulqa_mc2", 0),
    Asked("winogrande", 5),
    Asked("gsm8k", 5),
)
"""The six tasks of the first Open LLM Leaderboard with its shots, as the paper has them (appendix, alignment tax).

lm-evaluation-harness calls the second leaderboard's tasks by this name, too; those are asked for one by one.
"""

FAST = tuple(map(Asked, ("tinyArc", "tinyHellaswag", "tinyMMLU", "tinyTruthfulQA", "tinyWinogrande", "tinyGSM8k")))
"""The same six by 100 items each (tinyBenchmarks, arXiv 2402.14992), with the shots that the tasks state."""


def read_tasks(text: str) -> tuple[Asked, ...]:
    """NAME or NAME:SHOTS, separated by commas; `leaderboard` stands for the six.

    Raises EvaluationError for a name that stands twice, and for none.
    """
    asked: list[Asked] = []
    for part in filter(None, map(str.strip, text.split(","))):
        name, sign, shots = part.rpartition(":")
        one = Asked(name, int(shots)) if sign and name and shots.isdecimal() else Asked(part)
        asked += LEADERBOARD if part == "leaderboard" else (one,)
    names = [each.name for each in asked]
    for name in names:
        if names.count(name) > 1:
            raise EvaluationError(f"--tasks {text}: {name} stands there twice")
    if not asked:
        raise EvaluationError("--tasks names no task; write NAME or NAME:SHOTS, separated by commas")
    return tuple(asked)
