"""Setting another alpha in a live model, beside one pass of `torch.lerp` over the same bytes, and beside writing
theta(alpha), with `llm-expo apply` or as a script would, and loading it.

    python bench/moving.py THETA0 THETA1 [--rounds 7] [--out FILE.json]

All in turn in each round, with torch's own number of threads, files in the page cache. What is written is removed
between rounds; `apply` syncs it, the script does not.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import measure
import torch
from transformers import AutoModelForCausalLM

from llm_expo.generation.moving import InMemory
from llm_expo.weights import Direction, apply

ALPHAS = 0.5, 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("theta0", type=Path)
    parser.add_argument("theta1", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    options = parser.parse_args()

    live = InMemory(Direction.open(options.theta0, options.theta1), torch.device("cpu"), trust_remote_code=False)
    sides = [load(folder).state_dict() for folder in (options.theta0, options.theta1)]
    distinct = {tensor.data_ptr(): name for name, tensor in sides[1].items()}.values()  # tied ones once
    initial, aligned = ([side[name] for name in distinct] for side in sides)
    out = [torch.empty_like(tensor) for tensor in aligned]

    def lerp(alpha: float) -> None:
        for before, after, target in zip(initial, aligned, out, strict=True):
            torch.lerp(before, after, 1 + alpha, out=target)

    def applied(alpha: float) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            apply(options.theta0, options.theta1, alpha, Path(scratch) / "theta")
            load(Path(scratch) / "theta")

    def saved(alpha: float) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            model = load(options.theta1)
            model.load_state_dict(
                {name: torch.lerp(tensor, sides[1][name], 1 + alpha) for name, tensor in sides[0].items()}
            )
            model.save_pretrained(Path(scratch) / "theta")
            load(Path(scratch) / "theta")

    ways: dict[str, Callable[[float], object]] = {
        "live": live.at,
        "lerp": lerp,
        "llm-expo apply and load": applied,
        "save_pretrained and load": saved,
    }
    for way in ways.values():
        way(2.0)
    rounds = [{name: timed(way, ALPHAS[number % 2]) for name, way in ways.items()} for number in range(options.rounds)]
    for name in ways:
        print(f"{name:26}{measure.Spread.of(each[name] for each in rounds)} s")
    ratios = {
        "live to lerp": measure.Spread.of(each["live"] / each["lerp"] for each in rounds),
        **{f"{way} to live": measure.Spread.of(each[way] / each["live"] for each in rounds) for way in list(ways)[2:]},
    }
    for what, ratio in ratios.items():
        print(f"{what}: {ratio}")
    if options.out:
        measure.save(options.out, {"rounds": rounds, "ratios": {what: asdict(ratio) for what, ratio in ratios.items()}})


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto")


def timed(way: Callable[[float], object], alpha: float) -> float:
    start = time.perf_counter()
    way(alpha)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
