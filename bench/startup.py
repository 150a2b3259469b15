"""How long a command takes to answer when there is nothing to do: `--help` and usage errors, beside bare Python.

    python bench/startup.py [--rounds 15] [--mergekit .../bin/mergekit-yaml] [--out FILE.json]

Run in turn, so that a noisy machine is noisy for all of them. Wanted: at most 0.3 s. The mergekit-yaml is one of an
environment of its own; without it, it is left out.
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import measure

LLM_EXPO = (sys.executable, "-m", "llm_expo.cli")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--mergekit", metavar="MERGEKIT-YAML")
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    options = parser.parse_args()
    commands = {  # and the exit status
        "python -c pass": ((sys.executable, "-c", "pass"), 0),
        "llm-expo --help": ((*LLM_EXPO, "--help"), 0),
        "llm-expo search --help": ((*LLM_EXPO, "search", "--help"), 0),
        "llm-expo apply (usage error)": ((*LLM_EXPO, "apply"), 2),
        "llm-expo apply (no such folder)": ((*LLM_EXPO, *"apply no-theta0 no-theta1 --alpha 1 --out x".split()), 1),
    }
    if options.mergekit:
        commands["mergekit-yaml --help"] = ((options.mergekit, "--help"), 0)
    rounds = [
        {name: measure.run(command, status=status) for name, (command, status) in commands.items()}
        for _ in range(options.rounds + 1)
    ][1:]
    print(f"{options.rounds} rounds, median (min..max)")
    print(f"{'':34}{'seconds':24}{'times bare Python':22}")
    for name in commands:
        wall = measure.Spread.of(each[name].wall for each in rounds)
        ratio = measure.Spread.of(each[name].wall / each["python -c pass"].wall for each in rounds)
        print(f"{name:34}{wall!s:24}{ratio!s:22}")
    if options.out:
        measure.save(options.out, {"rounds": [{name: asdict(cost) for name, cost in each.items()} for each in rounds]})


if __name__ == "__main__":
    main()
