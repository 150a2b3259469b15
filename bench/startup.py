"""How long the command takes to answer when there is nothing to do: `--help` and a usage error, beside bare Python.

    python bench/startup.py [--rounds 15]

The three are run in turn, so that a noisy machine is noisy for all of them. Wanted: at most 0.3 s.
"""

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "llm-expo --help": [sys.executable, "-m", "llm_expo.cli", "--help"],
    "llm-expo search --help": [sys.executable, "-m", "llm_expo.cli", "search", "--help"],
    "llm-expo apply (usage error)": [sys.executable, "-m", "llm_expo.cli", "apply"],
}


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, capture_output=True, check=False)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    times = [{name: seconds(command) for name, command in COMMANDS.items()} for _ in range(rounds + 1)][1:]
    bare = [each["python -c pass"] for each in times]
    for name in COMMANDS:
        mine = [each[name] for each in times]
        ratio = statistics.median(a / b for a, b in zip(mine, bare, strict=True))
        print(f"{name:30} median {statistics.median(mine):.3f} s, max {max(mine):.3f} s, {ratio:.1f} times bare Python")


if __name__ == "__main__":
    main()
