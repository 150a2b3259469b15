"""The demo's whole search, beside the naive way through the paper's procedure (naive_search.py), in turn.

    python bench/search.py THETA0 THETA1 [--rounds 3] [--intervals 5,1] [--out FILE.json]

THETA0 and THETA1 are the demo's (`llm-expo demo` makes them). Whole processes, from start to end. The search confirms
its choice and reads all replies for the guard, which the naive way does not; the naive way asks all prompts at each
alpha, since it sets none aside.
"""

import argparse
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import measure

from llm_expo.demo import SEARCH_OPTIONS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("theta0", type=Path)
    parser.add_argument("theta1", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--intervals", default="5,1", help="of the paper's procedure; those that fit the pair best")
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    options = parser.parse_args()

    pair = [str(options.theta0), str(options.theta1)]
    naive = [sys.executable, str(Path(__file__).with_name("naive_search.py")), *pair, "--intervals", options.intervals]
    rounds = []
    for _ in range(options.rounds):
        scratch = Path(tempfile.mkdtemp())
        search = [
            sys.executable,
            "-m",
            "llm_expo.cli",
            "search",
            *pair,
            *SEARCH_OPTIONS,
            "--out",
            str(scratch / "study"),
        ]
        rounds.append({"search": measure.run(search), "naive": measure.run(naive)})
        shutil.rmtree(scratch)
    for name in ("search", "naive"):
        print(f"{name:8}{measure.Spread.of(each[name].wall for each in rounds)} s")
    ratio = measure.Spread.of(each["search"].wall / each["naive"].wall for each in rounds)
    print(f"search to naive: {ratio}")
    if options.out:
        measure.save(
            options.out,
            {
                "rounds": [{name: asdict(cost) for name, cost in each.items()} for each in rounds],
                "ratio": asdict(ratio),
            },
        )


if __name__ == "__main__":
    main()
