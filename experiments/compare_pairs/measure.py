"""Compare the pairs that make.py made and those of the demo, and print the table of docs/compare.md.

    python experiments/compare_pairs/measure.py DIR [--demo DEMO] > results.md

DIR is make.py's; DEMO is the folder of experiments/demo_pair/make.py, whose merged adapters are taken if it is given.
"half" is both checkpoints in bfloat16, "float32" the result in float32 against what its training started from, "mixed"
the start in float32 against the result in bfloat16. DIR/results.jsonl receives everything that compare knows.
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path

from llm_expo.checkpoints import Checkpoint
from llm_expo.weights import Comparison, Direction, compare, compare_three, judge, judge_three
from llm_expo.weights.comparison import as_json

STARTS = {
    "sft-2e-5": "pre",
    "sft-2e-5-early": "pre",
    "sft-1e-4": "pre",
    "dpo-5e-7": "sft-2e-5",
    "dpo-1e-6": "sft-2e-5",
    "dpo-5e-6": "sft-2e-5",
    "random": "pre",
    "permuted": "pre",
}
HEAD = ("pair", "stored", "norm/√n", "relative", "equal", "1 ulp", "beyond", "median cosine", "looks like")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--demo", type=Path)
    options = parser.parse_args()
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    with (options.folder / "results.jsonl").open("w") as file:
        for name, stored, initial, aligned in pairs(options.folder, options.demo):
            comparison = compare(Direction.open(initial, aligned))
            judgement = judge(comparison)
            print(row(name, stored, comparison, judgement.likeness), flush=True)
            file.write(
                json.dumps({"pair": name, "stored": stored, "judgement": str(judgement), **as_json(comparison)}) + "\n"
            )
    print()
    half = options.folder / "bf16"
    for name in ("dpo-5e-7", "dpo-5e-6"):
        for stored, place in (("float32", options.folder), ("half", half)):
            if (place / name).exists():
                lineage = compare_three(*map(Checkpoint.open, (half / "pre", half / "sft-2e-5", place / name)))
                print(f"{name}, {stored}: cosine of the two steps {lineage.turn:.4f}, by kind", end=" ")
                print({kind: turn and round(turn, 4) for kind, turn in lineage.turn_by_kind().items()}, end="; ")
                print(judge_three(lineage))


def pairs(folder: Path, demo: Path | None) -> Iterator[tuple[str, str, Path, Path]]:
    """(name, how it is stored, theta0, theta1) of the pairs that are there."""
    half = folder / "bf16"
    for name, start in STARTS.items():
        if (half / name).exists():
            yield name, "float32", half / start, folder / name
            yield name, "half", half / start, half / name
            yield name, "mixed", folder / start, half / name
    yield "rounding alone", "mixed", folder / "sft-2e-5", half / "sft-2e-5"
    for share in (10, 20, 100):
        for stored, place in (("float32", demo), ("half", demo and demo / "bf16")):
            if place and (place / f"lora-{share}").exists():
                yield f"demo, {share} %", stored, place / "theta0", place / f"lora-{share}"


def row(name: str, stored: str, comparison: Comparison, likeness: str) -> str:
    total = comparison.total
    tensors = comparison.direction.aligned.tensors
    cosines = [each.cosine or 0.0 for key, each in comparison.distances.items() if len(tensors[key].shape) > 1]
    shares = (total.share_equal, total.share_one_ulp, total.share_beyond)
    cells = [
        name,
        stored,
        f"{total.norm_per_root_element:.2g}",
        f"{total.norm_relative:.2g}",
        *(f"{share:.2%}" for share in shares),
        f"{statistics.median(cosines):.5f}",
        likeness,
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
