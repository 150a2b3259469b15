"""Whether a reward model is one: beside the rule that the longer reply wins, on prompts that it never saw.

    python experiments/reward_model/judge.py MODEL DIR/held-out.jsonl [--pairs N] [--out FILE.json]

It passes if it is right more often than the rule by more than two standard errors, and, where the chosen reply is the
shorter one, more often than one time in two by as much. Errors take prompts for clusters: pairs of one are alike.
"""

import argparse
import json
import math
import random
from collections import defaultdict
from pathlib import Path

from llm_expo.scoring import scorer_from


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("held_out", type=Path)
    parser.add_argument("--pairs", type=int, help="so many of them, drawn at random with a fixed seed; default: all")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    pairs = [json.loads(line) for line in options.held_out.read_text().splitlines()]
    if options.pairs is not None:
        pairs = random.Random(0).sample(pairs, min(options.pairs, len(pairs)))
    found = figures(pairs, rewards(options.model, pairs))
    print(json.dumps(found, indent=2))
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=2) + "\n")


def rewards(model: str, pairs: list[dict[str, str]]) -> list[tuple[float, float]]:
    """Of the chosen and the rejected reply."""
    scorer = scorer_from(f"reward-model:{model}", device="cpu", trust_remote_code=False)
    asked = [
        [{"role": "user", "content": pair["prompt"]}, {"role": "assistant", "content": pair[side]}]
        for pair in pairs
        for side in ("chosen", "rejected")
    ]
    order = sorted(range(len(asked)), key=lambda index: len(asked[index][0]["content"] + asked[index][1]["content"]))
    scores = dict(zip(order, scorer.score([asked[index] for index in order]), strict=True))
    return [(scores[2 * index], scores[2 * index + 1]) for index in range(len(pairs))]


def figures(pairs: list[dict[str, str]], found: list[tuple[float, float]]) -> dict[str, object]:
    right = [_better(chosen, rejected) for chosen, rejected in found]
    rule = [_better(len(pair["chosen"]), len(pair["rejected"])) for pair in pairs]
    shorter = [index for index, each in enumerate(rule) if each == 0]
    near = [index for index, pair in enumerate(pairs) if abs(len(pair["chosen"]) - len(pair["rejected"])) < 50]
    everything = range(len(pairs))
    beats = _mean([right[index] - rule[index] for index in everything], pairs, everything)
    short = _mean(right, pairs, shorter)
    return {
        "pairs": len(pairs),
        "prompts": len({pair["prompt"] for pair in pairs}),
        "right": _mean(right, pairs, everything),
        "longer_wins": _mean(rule, pairs, everything),
        "right_minus_longer_wins": beats,
        "right_where_chosen_is_shorter": short,
        "right_within_50_characters": _mean(right, pairs, near),
        "passes": beats[0] > 2 * beats[1] and short[0] - 0.5 > 2 * short[1],
    }


def _better(one: float, other: float) -> float:
    return 0.5 if one == other else float(one > other)


def _mean(values: list[float], pairs: list[dict[str, str]], which: "range | list[int]") -> tuple[float, float]:
    """Mean over pairs, and its standard error with prompts as clusters."""
    mean = sum(values[index] for index in which) / len(which)
    sums: dict[str, float] = defaultdict(float)
    for index in which:
        sums[pairs[index]["prompt"]] += values[index] - mean
    groups = len(sums)
    spread = math.sqrt(sum(each**2 for each in sums.values()) * groups / max(groups - 1, 1)) / len(which)
    return round(mean, 4), round(spread, 4)


if __name__ == "__main__":
    main()
