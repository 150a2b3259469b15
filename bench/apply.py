"""`llm-expo apply` beside a copy of one checkpoint and beside its peers, with a warm page cache: time, memory, result.

    python bench/apply.py [--sizes 1B 3B] [--rounds 5] [--mergekit .../bin/mergekit-yaml] [--out FILE.json]

- `cp -r` of theta1;
- `llm-expo apply`, once for each --variant, a string of more options: by default none, `--workers 1` and `--workers 4`;
- mergekit's task_arithmetic, of an environment of its own (pip install mergekit==0.1.5), where --mergekit names it;
- bench/in_memory.py: as the paper's script does it.

Whole processes, start-up and what they tell the user included, one after another, in a new order each round; the first
round is not counted. Every ratio is one of two runs of the same round. A sample of every output is checked
(bench/check.py). Wanted: apply's slope between 1B and 3B at most 1.4 times cp's, its time at 3B at most 1.7 times cp's
and an eighth of the peers', its peak memory at most 300 MB and the same at both sizes.

Inputs lie in --inputs (a temporary folder on disk, where a pair takes 4.4 GB at 1B and 11.2 GB at 3B; a folder that you
name is kept and used again), and the outputs, one at a time, in --folder (/dev/shm). To be warm, the inputs and the
output have to fit into memory together, beside what the program holds itself. A program for which that is more than the
machine has left is left out at that size, and the table says so: mergekit at 3B takes 26 GB.

Needs numpy, torch and transformers.
"""

import argparse
import json
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import measure
from measure import Cost, Spread

HERE = Path(__file__).parent
ALPHA = 0.3
CP, MERGEKIT, IN_MEMORY = "cp -r", "mergekit", "in memory"
# The share of weights that bench/check.py has to find right where the sum is done in float32, and where it is done in
# bf16, which errs in some per mille of these. theta1 itself would have 0.88.
EXACT, ROUGH = 0.9999, 0.99


@dataclass(frozen=True, slots=True)
class Program:
    name: str
    command: list[str]
    memory: int  # bytes that it is known to hold beside its input files' pages, rounded up
    right: float | None  # the share of weights that has to be right; None: it computes nothing


@dataclass(frozen=True, slots=True)
class Result:
    """Of one size."""

    size: str
    nbytes: int  # of one checkpoint
    rounds: list[dict[str, Cost]]
    right: dict[str, float]  # least share of weights equal to the exact sum, rounded once
    warm: dict[str, float]  # least share of the inputs still in the page cache when a run ended
    left_out: list[str]

    def wall(self, name: str) -> Spread:
        return Spread.of(each[name].wall for each in self.rounds)

    def ratio(self, name: str, to: str) -> Spread:
        return Spread.of(each[name].wall / each[to].wall for each in self.rounds)


def measured(size: str, options: argparse.Namespace, inputs: Path, scratch: Path) -> Result:
    theta0, theta1 = pair = made_pair(size, inputs)
    nbytes, out = measure.total_bytes(theta1), scratch / "out"
    programs, left_out = [], []
    cached = 0 if measure.filesystem(inputs) == "tmpfs" else 2 * nbytes
    available = measure.available_memory()
    for program in all_programs(options, theta0, theta1, out, nbytes):
        if (needed := cached + nbytes + program.memory) > available:
            left_out.append(
                f"{program.name} left out: both inputs in the page cache, the output and its own memory take about "
                f"{needed / 1e9:.0f} GB, {available / 1e9:.0f} GB are available"
            )
        else:
            programs.append(program)
    rounds = []
    right: dict[str, float] = {}
    warm: dict[str, float] = {}
    for number in range(options.rounds + 1):
        costs = {}
        for program in random.Random(number).sample(programs, len(programs)):
            measure.warm(pair)
            shutil.rmtree(out, ignore_errors=True)  # late, so that its memory is still at hand for the next output
            costs[program.name] = measure.run(program.command, out)
            warm[program.name] = min(measure.resident_share(pair), warm.get(program.name, 1))
            if program.right is not None:
                share = share_right(theta0, theta1, out)
                if share < program.right:
                    sys.exit(f"{program.name}: {share:.3%} of the weights are right, {program.right:.2%} were expected")
                right[program.name] = min(share, right.get(program.name, 1))
        said = ", ".join(f"{name} {cost.wall:.2f} s" for name, cost in costs.items())
        print(f"{size}, round {number}: {said}", file=sys.stderr)
        rounds.append(costs)
    shutil.rmtree(out, ignore_errors=True)
    in_order = [{program.name: costs[program.name] for program in programs} for costs in rounds[1:]]
    return Result(size, nbytes, in_order, right, warm, left_out)


def all_programs(options: argparse.Namespace, theta0: Path, theta1: Path, out: Path, nbytes: int) -> list[Program]:
    apply = [sys.executable, "-m", "llm_expo.cli", "apply", theta0, theta1, "--alpha", ALPHA, "--out", out]
    found = [
        Program(CP, ["cp", "-r", str(theta1), str(out)], 0, None),
        *(
            Program(apply_name(variant), [*map(str, apply), *shlex.split(variant)], 300_000_000, EXACT)
            for variant in options.variant
        ),
    ]
    if options.mergekit:
        config = out.with_name("mergekit.yml")
        config.write_text(json.dumps(mergekit_config(theta0, theta1)))  # JSON is YAML
        command = [options.mergekit, str(config), str(out), "--no-copy-tokenizer"]
        found.append(Program(MERGEKIT, command, nbytes * 3 // 2 + 500_000_000, ROUGH))
    command = [sys.executable, str(HERE / "in_memory.py"), str(theta0), str(theta1), str(out), str(ALPHA)]
    return [*found, Program(IN_MEMORY, command, nbytes + 1_000_000_000, ROUGH)]


def apply_name(variant: str) -> str:
    return f"apply {variant}".strip()


def mergekit_config(theta0: Path, theta1: Path) -> dict[str, Any]:
    return {
        "merge_method": "task_arithmetic",
        "base_model": str(theta0),
        "models": [{"model": str(theta1), "parameters": {"weight": 1 + ALPHA}}],
        "dtype": "bfloat16",
    }


def made_pair(size: str, inputs: Path) -> tuple[Path, Path]:
    folder = inputs / size
    if not folder.exists():
        unfinished = inputs / f"{size}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        subprocess.run([sys.executable, HERE / "pair.py", size, unfinished], check=True, stdout=sys.stderr)
        unfinished.rename(folder)
    return folder / "theta0", folder / "theta1"


def share_right(theta0: Path, theta1: Path, out: Path) -> float:
    command = [sys.executable, *map(str, (HERE / "check.py", theta0, theta1, out, ALPHA))]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def show(result: Result, apply: str) -> None:
    print(f"\n{result.size}: {result.nbytes / 1e9:.2f} GB each; {len(result.rounds)} rounds, median (min..max)")
    print(f"{'':20}{'seconds':24}{'times cp':24}{apply + ' / it':24}{'CPU s':>7}{'peak MB':>9}{'right':>10}")
    for name in result.rounds[0]:
        cpu = Spread.of(each[name].cpu for each in result.rounds).median
        peak = Spread.of(each[name].peak / 1e6 for each in result.rounds).high
        right = f"{result.right[name]:.3%}" if name in result.right else ""
        print(
            f"{name:20}{result.wall(name)!s:24}{result.ratio(name, CP)!s:24}{result.ratio(apply, name)!s:24}"
            f"{cpu:>7.2f}{peak:>9.0f}{right:>10}"
        )
    for name, share in result.warm.items():
        if share < 0.995:
            print(f"  {name}: at the end of a run the page cache held {share:.1%} of the inputs: it was not all warm")
    for line in result.left_out:
        print(f"  {line}")


def slopes(small: Result, large: Result) -> dict[str, Spread]:
    """Seconds per gigabyte of checkpoint that a program takes more at the larger size, divided by cp's.

    The i-th rounds of both sizes make the i-th ratio.
    """
    found = {}
    for name in small.rounds[0].keys() & large.rounds[0].keys():
        more = [
            (two[name].wall - one[name].wall) / (two[CP].wall - one[CP].wall)
            for one, two in zip(small.rounds, large.rounds, strict=True)
        ]
        found[name] = Spread.of(more)
    return {name: found[name] for name in small.rounds[0] if name in found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["1B", "3B"], help="of bench/pair.py")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--variant", action="append", help="more options for apply; repeatable")
    parser.add_argument("--mergekit", metavar="MERGEKIT-YAML")
    parser.add_argument("--inputs", type=Path, help="where the pairs are made, kept and found")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="where the outputs go")
    parser.add_argument("--out", type=Path, help="a JSON file for the results")
    options = parser.parse_args()
    options.variant = options.variant or ["", "--workers 1", "--workers 4"]
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.folder)))
        inputs: Path = options.inputs or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        inputs.mkdir(parents=True, exist_ok=True)
        print(*(f"{name} {value}" for name, value in measure.machine().items()), sep=", ")
        print(f"inputs on {measure.filesystem(inputs)}, outputs on {measure.filesystem(scratch)}, alpha {ALPHA}")
        results = [measured(size, options, inputs.resolve(), scratch.resolve()) for size in options.sizes]
    apply = apply_name(options.variant[0])
    for result in results:
        show(result, apply)
    found = slopes(results[0], results[-1]) if len(results) > 1 else {}
    if found:
        print(f"\nslope from {results[0].size} to {results[-1].size}, times cp's")
        for name, slope in found.items():
            print(f"{name:20}{slope}")
    if options.out:
        record = {"results": [asdict(each) for each in results], "slopes": {k: asdict(v) for k, v in found.items()}}
        measure.save(options.out, record)


if __name__ == "__main__":
    main()
