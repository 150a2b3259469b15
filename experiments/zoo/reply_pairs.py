"""Samples become pairs of replies: the best against the worst of a prompt, by an objective, in TRL's conversational
form.

Only replies that ended by themselves take part: TRL puts an end to every text, and a reply that was cut off would teach
the model to stop in the middle. Knows no model.
"""

import statistics
from pathlib import Path
from typing import Any

import journal
from objectives import OBJECTIVES
from questions import training_prompts


def pairs_of(folder: Path, objective: str) -> Path:
    return folder / ("pairs.jsonl" if objective == "positivity" else f"pairs-{objective}.jsonl")


def make_pairs(folder: Path, objective: str) -> None:
    """Write what `pairs_of` names from DIR/samples, unless it is there."""
    out = pairs_of(folder, objective)
    if out.exists():
        return
    score, margin = OBJECTIVES[objective].score, OBJECTIVES[objective].margin
    lines = [line for path in sorted((folder / "samples").glob("*.jsonl")) for line in journal.read(path)]
    by_prompt: dict[str, list[Any]] = {}
    for row in (row for line in lines for row in line["rows"]):
        (reward,) = score([[{"role": "assistant", "content": row["reply"]}]])
        by_prompt.setdefault(row["id"], []).append(row | {"reward": reward})
    rows, pairs = [row for mine in by_prompt.values() for row in mine], []
    dropped = dict.fromkeys(("fewer than two replies that ended", "difference below the margin"), 0)
    for prompt in training_prompts():
        ended = [row for row in by_prompt[prompt.id] if not row["truncated"] and row["reply"].strip()]
        if len(ended) < 2:
            dropped["fewer than two replies that ended"] += 1
            continue
        worst, *_, best = sorted(ended, key=lambda row: row["reward"])
        if best["reward"] - worst["reward"] < margin:
            dropped["difference below the margin"] += 1
            continue
        pairs.append((prompt, best, worst))
    journal.log(
        folder,
        phase="pairs",
        objective=objective,
        replies=len(rows),
        cut_off=round(statistics.fmean(row["truncated"] for row in rows), 4),
        mean_reward=round(statistics.fmean(row["reward"] for row in rows), 4),
        mean_tokens=round(statistics.fmean(row["tokens"] for row in rows), 2),
        minutes=round(sum(line["minutes"] for line in lines), 1),
        pairs=len(pairs),
        dropped=dropped,
        rewards=[round(statistics.fmean(pair[side]["reward"] for pair in pairs), 3) for side in (1, 2)],
        tokens=[round(statistics.fmean(pair[side]["tokens"] for pair in pairs), 1) for side in (1, 2)],
        longer_chosen=round(statistics.fmean(best["tokens"] > worst["tokens"] for _, best, worst in pairs), 3),
    )
    journal.write(
        out,
        (
            {
                "prompt": list(prompt.messages),
                "chosen": [{"role": "assistant", "content": best["reply"]}],
                "rejected": [{"role": "assistant", "content": worst["reply"]}],
            }
            for prompt, best, worst in pairs
        ),
    )
