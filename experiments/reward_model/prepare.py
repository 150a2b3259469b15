"""Preferences of others become training and held-out pairs for two reward models, split by prompt.

    python experiments/reward_model/prepare.py --data FOLDER DIR

FOLDER holds alpaca_eval_short_pairs.jsonl.gz (tatsu-lab/alpaca_eval; CC BY-NC 4.0: for experiments, and no text or
model of it is published): pairs of short replies that mostly GPT-4 judged. DIR receives, as `llm-expo train` takes it,

    policy-natural.jsonl     to make the model that trains policies, the pairs as they are
    policy-balanced.jsonl    the same prompts; in each class of length difference the shorter reply is chosen as often
    policy-tempered.jsonl    between the two: the longer one is chosen in 60 % of each class
    judge-*.jsonl            the same for the model that judges; other prompts
    held-out.jsonl           prompts that neither saw

A pair that was judged several times counts once, by the majority; one that was judged both ways alike is left out.
"""

import argparse
import gzip
import hashlib
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

SHARES = {"policy": 0.42, "judge": 0.42, "held-out": 0.16}  # of the prompts
CLASSES = (25, 50, 100, 200, 400)  # characters of difference
MOST_PER_PROMPT = 40  # so that no prompt rules the others
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("folder", type=Path, metavar="DIR")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    by_part: dict[str, list[dict[str, str]]] = {part: [] for part in SHARES}
    for prompt, pairs in judged(options.data / "alpaca_eval_short_pairs.jsonl.gz").items():
        random.Random(f"{SEED} {prompt}").shuffle(pairs)
        by_part[part_of(prompt)] += pairs[:MOST_PER_PROMPT]
    for part, pairs in by_part.items():
        if part == "held-out":
            write(options.folder / "held-out.jsonl", pairs)
        else:
            write(options.folder / f"{part}-natural.jsonl", pairs)
            write(options.folder / f"{part}-balanced.jsonl", with_longer(pairs, 0.5))
            write(options.folder / f"{part}-tempered.jsonl", with_longer(pairs, 0.6))


def judged(path: Path) -> dict[str, list[dict[str, str]]]:
    """Pairs by prompt, each once."""
    votes: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for row in map(json.loads, file):
            first, second = sorted((row["chosen"].strip(), row["rejected"].strip()))
            if first and first != second:
                votes[row["prompt"].strip(), first, second][row["chosen"].strip()] += 1
    pairs = defaultdict(list)
    for (prompt, first, second), count in votes.items():
        if count[first] != count[second]:
            chosen, rejected = (first, second) if count[first] > count[second] else (second, first)
            pairs[prompt].append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return pairs


def part_of(prompt: str) -> str:
    """By a hash, so that it does not depend on what else there is."""
    at = int(hashlib.sha256(f"{SEED} {prompt}".encode()).hexdigest()[:8], 16) / 2**32
    for part, share in SHARES.items():
        if at < share:
            return part
        at -= share
    return part


def with_longer(pairs: Iterable[dict[str, str]], share: float) -> list[dict[str, str]]:
    """As many pairs as there are with the longer reply chosen in `share` of each class."""
    classes: dict[tuple[int, bool], list[dict[str, str]]] = defaultdict(list)
    for pair in pairs:
        difference = len(pair["chosen"]) - len(pair["rejected"])
        if difference:
            classes[sum(abs(difference) >= bound for bound in CLASSES), difference > 0].append(pair)
    kept = []
    for size in range(len(CLASSES) + 1):
        longer, shorter = classes[size, True], classes[size, False]
        count = min(len(longer) / share, len(shorter) / (1 - share))
        kept += longer[: round(count * share)] + shorter[: round(count * (1 - share))]
    return kept


def write(path: Path, pairs: list[dict[str, str]]) -> None:
    random.Random(SEED).shuffle(pairs)
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    longer = sum(len(pair["chosen"]) > len(pair["rejected"]) for pair in pairs) / len(pairs)
    prompts = len({pair["prompt"] for pair in pairs})
    print(f"{path.name}: {len(pairs)} pairs on {prompts} prompts, the longer reply is chosen in {longer:.1%}")


if __name__ == "__main__":
    main()
