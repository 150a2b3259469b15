"""`llm-expo apply` as a process, killed with SIGKILL at 50 moments: nothing is lost, nothing is half there."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from llm_expo.cli import main

KILLS = 50
SHARDS = 8
ELEMENTS = 1 << 20  # of each of the two tensors in a shard: 4 MiB a shard, 32 MiB a side


def large_pair(folder: Path) -> tuple[Path, Path]:
    """A bfloat16 pair in several shards, with files beside the weights."""
    numbers = np.random.default_rng(0)
    sides = folder / "theta0", folder / "theta1"
    for side in sides:
        side.mkdir()
        (side / "config.json").write_text("{}")
        (side / "tokenizer.json").write_text("x" * 100_000)
    weight_map = {}
    for shard in range(SHARDS):
        name = f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
        tensors = [f"layers.{shard}.{part}" for part in ("attention", "mlp")]
        size = 2 * ELEMENTS
        entries = {
            tensor: {"dtype": "BF16", "shape": [ELEMENTS], "data_offsets": [at * size, (at + 1) * size]}
            for at, tensor in enumerate(tensors)
        }
        header = json.dumps(entries).encode()
        before = numbers.normal(size=len(tensors) * ELEMENTS).astype("<f4")
        after = before + np.float32(0.01) * numbers.normal(size=len(before)).astype("<f4")
        for side, values in zip(sides, (before, after), strict=True):
            data = (values.view("<u4") >> 16).astype("<u2").tobytes()
            (side / name).write_bytes(len(header).to_bytes(8, "little") + header + data)
        weight_map.update(dict.fromkeys(tensors, name))
    for side in sides:
        (side / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return sides


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def started(pair: tuple[Path, Path], out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "llm_expo.cli", "apply", *map(str, pair), "--alpha", "0.3", "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def at_work(child: subprocess.Popen[bytes], partial: Path) -> bool:
    """Wait until the run has begun to write; False if it ended before that was seen."""
    while not partial.exists():
        if child.poll() is not None:
            return False
        os.sched_yield()
    return True


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_50_moments(tmp_path: Path) -> None:
    """Half of the moments are spread over the whole run, half over the time in which it writes.

    A killed run's leftover is either taken up at once by a whole run, or first by further runs that are killed too.
    """
    pair = large_pair(tmp_path)
    inputs = [contents(side) for side in pair]
    out, partial = tmp_path / "out", tmp_path / "out.partial"

    begun = time.monotonic()
    plain = started(pair, tmp_path / "plain")
    assert at_work(plain, tmp_path / "plain.partial")
    writing_since = time.monotonic()
    assert plain.wait() == 0
    done = time.monotonic()
    expected = contents(tmp_path / "plain")
    assert len(expected) == SHARDS + 4  # the index, two files beside the weights, llm_expo.json

    rng = random.Random(0)
    midway = 0
    for kill in range(KILLS):
        moment, left_over = rng.random(), partial.exists()
        child = started(pair, out)
        try:
            if kill % 2:
                at_work(child, partial)
                child.wait(timeout=moment * (done - writing_since))
            else:
                child.wait(timeout=moment * (done - begun))
        except subprocess.TimeoutExpired:
            child.kill()
        assert child.wait() in (0, -signal.SIGKILL)
        midway += partial.exists() and not left_over and not out.exists()
        if not out.exists():
            if rng.random() < 0.4:
                continue
            assert main(["apply", *map(str, pair), "--alpha", "0.3", "--out", str(out)]) == 0
        assert contents(out) == expected, f"after kill {kill}"
        shutil.rmtree(out)
    assert midway > KILLS // 10, "the moments have to meet the run at its work"

    assert started(pair, out).wait() == 0
    assert contents(out) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "plain", "theta0", "theta1"]
    assert [contents(side) for side in pair] == inputs, "inputs are left as they were"
