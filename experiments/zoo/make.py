"""Remake the zoo: thirteen theta1 trained from one theta0, two controls, and the dense reward table of each pair.

    python experiments/zoo/make.py DIR [--jobs 2]

theta0 (SmolLM2-135M-Instruct, float32) answers the training prompts; the best and the worst reply to a prompt, by each
objective (objectives.py), make a pair of replies; `llm-expo train` runs the recipes beside this file on them;
controls.py and table.py do the rest. Everything lands in DIR, figures and minutes in DIR/log.jsonl.

Each task is a process of its own, `jobs` of them at once with one thread each (at this size two processes do more than
two threads). A task is done when what it makes is there; killed at any moment, the same command goes on. A lock, which
tasks inherit, keeps a second run out as long as anything of the first one lives. README.md tells what came of it.
"""

import argparse
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import journal
from objectives import OBJECTIVES
from pairs import CONTROLLED, PAIRS, REPEATED, THETA0, recipe_of, theta1_of
from reply_pairs import make_pairs, pairs_of
from table import OTHER_SEED, finished_alphas, is_whole

from llm_expo.demo.pair import make_pair

HERE = Path(__file__).parent
SAMPLING_PARTS = 2
REPEATED_ALPHAS = "0,1,2,4,8"


@dataclass(frozen=True, slots=True)
class Task:
    """A process. It may start when all of `needs` are there, and has nothing to do when `makes` is; without `makes` it
    finds that out for itself.
    """

    name: str
    command: tuple[str, ...]
    makes: Path | None = None
    needs: tuple[Path, ...] = ()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    folder: Path = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    os.set_inheritable(lock, True)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"{folder}: another run, or a task that outlived one, is at work in it")

    make_pair(folder)
    if not all(pairs_of(folder, objective).exists() for objective in OBJECTIVES):
        parts = [f"{i}/{SAMPLING_PARTS}" for i in range(SAMPLING_PARTS)]
        samples = [Task(f"sample-{i}", script("sample.py", folder, "--part", part)) for i, part in enumerate(parts)]
        run(samples, options.jobs, folder)
        for objective in OBJECTIVES:
            make_pairs(folder, objective)
    recipes = folder / "recipes"  # beside theta0 and the pairs of replies, which they name
    recipes.mkdir(exist_ok=True)
    for recipe in HERE.glob("*.toml"):
        shutil.copy(recipe, recipes)
    run(training_and_tables(folder), options.jobs, folder)


def training_and_tables(folder: Path) -> list[Task]:
    """In the order in which they shall start, as far as what they need is there; of whole tables, nothing."""
    tasks = [Task(f"table-{theta0}", script("table.py", folder, theta0)) for theta0 in THETA0.values()]
    again = script("table.py", folder, REPEATED, "--seed", str(OTHER_SEED), "--alphas", REPEATED_ALPHAS)
    if not is_repeated(folder):
        tasks.append(Task(f"table-{REPEATED}-again", again, needs=(theta1_of(folder, REPEATED),)))
    for pair in (pair for pair in PAIRS if not is_whole(folder, pair)):
        theta1, recipe = theta1_of(folder, pair), recipe_of(pair)
        if recipe is None:
            made = Task(pair, script("controls.py", folder, pair), theta1, (theta1_of(folder, CONTROLLED),))
        else:
            stated, run_folder = folder / "recipes" / f"{recipe}.toml", folder / "runs" / recipe
            command = (sys.executable, "-m", "llm_expo.cli", "train", str(stated), "--out", str(run_folder))
            made = Task(f"train-{recipe}", command, run_folder / "model")
        if made not in tasks:
            tasks.append(made)
        tasks.append(Task(f"table-{pair}", script("table.py", folder, pair), needs=(theta1,)))
    return tasks


def is_repeated(folder: Path) -> bool:
    lines = journal.read(folder / "tables" / f"{REPEATED}-seed-{OTHER_SEED}.jsonl")
    return finished_alphas(lines).keys() >= {float(alpha) for alpha in REPEATED_ALPHAS.split(",")}


def script(name: str, folder: Path, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, str(HERE / name), str(folder), *arguments)


def run(tasks: Sequence[Task], jobs: int, folder: Path) -> None:
    """Run each task once, the first that may start as soon as a place is free; exit if one failed, after the others."""
    waiting, failed = list(tasks), []
    running: dict[Task, tuple[subprocess.Popen[bytes], float]] = {}
    while waiting or running:
        ready = [task for task in waiting if all(path.exists() for path in task.needs)]
        while ready and len(running) < jobs:
            task = ready.pop(0)
            waiting.remove(task)
            if task.makes is None or not task.makes.exists():
                running[task] = start(task, folder), time.monotonic()
        for task, (process, clock) in list(running.items()):
            if process.poll() is not None:
                del running[task]
                journal.log(folder, phase=task.name, exit=process.returncode, minutes=journal.minutes_since(clock))
                failed += [task.name] if process.returncode else []
        if not running and not ready:
            failed += [task.name for task in waiting]  # what they need was not made
            break
        time.sleep(1)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; see {folder / 'output'}")


def start(task: Task, folder: Path) -> subprocess.Popen[bytes]:
    output = folder / "output"
    output.mkdir(exist_ok=True)
    with (output / f"{task.name}.txt").open("ab") as file:
        return subprocess.Popen(
            task.command, stdout=file, stderr=file, close_fds=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )


if __name__ == "__main__":
    main()
