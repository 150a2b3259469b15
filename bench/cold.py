"""`llm-expo apply` with a cold page cache, beside reading both checkpoints once and copying one.

    python bench/cold.py [--size 1B] [--rounds 5] [--variant "--workers 1"] [--folder FOLDER] [--out FILE.json]

The peer is `cat THETA0/* > /dev/null; cp -r THETA1 OUT`. Before each run both checkpoints are dropped from the page
cache (posix_fadvise, which needs no privilege; mincore confirms that they are gone), and within the time of each run
what it wrote is synced. The two run in turn, in a new order each round; every ratio is one of two runs of the same
round. Wanted: at most 1.25.

FOLDER, on the disk that is measured, gets three checkpoints; by default the place for temporary files. Below the page
cache there may be more caches, such as the host's of a virtual disk: the rate at which the peer reads tells.

Needs numpy.
"""

import argparse
import os
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import measure
from measure import Spread

HERE = Path(__file__).parent
PEER = "read both, copy one"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="1B", help="of bench/pair.py")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--variant", action="append", help="more options for apply; repeatable")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        folder = Path(scratch).resolve()
        pair = theta0, theta1 = folder / "pair/theta0", folder / "pair/theta1"
        out = folder / "out"
        subprocess.run([sys.executable, HERE / "pair.py", options.size, folder / "pair"], check=True, stdout=sys.stderr)
        apply = [sys.executable, "-m", "llm_expo.cli", "apply", theta0, theta1, "--alpha", "0.3", "--out", out]
        copy = 'cat "$0"/* > /dev/null && cp -r "$1" "$2"'
        commands = {PEER: ["sh", "-c", copy, *map(str, (theta0, theta1, out))]} | {
            f"apply {variant}".strip(): [*map(str, apply), *shlex.split(variant)] for variant in options.variant or [""]
        }
        nbytes, kind = measure.total_bytes(theta1), measure.filesystem(folder)
        rounds = []
        for number in range(options.rounds + 1):
            costs = {}
            for name in random.Random(number).sample(list(commands), len(commands)):
                shutil.rmtree(out, ignore_errors=True)
                os.sync()  # freeing what was there before is no part of the next run
                measure.drop(pair)
                costs[name] = measure.run(commands[name], out)
            said = ", ".join(f"{name} {cost.wall:.2f} s" for name, cost in costs.items())
            print(f"round {number}: {said}", file=sys.stderr)
            rounds.append(costs)
    rounds = rounds[1:]  # the first is not counted
    print(f"{options.size}: {nbytes / 1e9:.2f} GB each on {kind}; {len(rounds)} rounds, median (min..max)")
    print(f"{'':24}{'seconds':24}{'times the peer':24}{'CPU s':>7}{'peak MB':>9}")
    for name in commands:
        wall = Spread.of(each[name].wall for each in rounds)
        ratio = Spread.of(each[name].wall / each[PEER].wall for each in rounds)
        cpu = Spread.of(each[name].cpu for each in rounds).median
        peak = Spread.of(each[name].peak / 1e6 for each in rounds).high
        print(f"{name:24}{wall!s:24}{ratio!s:24}{cpu:>7.2f}{peak:>9.0f}")
    if options.out:
        found = [{name: asdict(cost) for name, cost in each.items()} for each in rounds]
        measure.save(options.out, {"size": options.size, "nbytes": nbytes, "filesystem": kind, "rounds": found})


if __name__ == "__main__":
    main()
