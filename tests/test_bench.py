"""The benchmarks run through on a tiny pair, and the check tells right outputs from wrong ones."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from llm_expo.testing import tiny_pair

BENCH = Path(__file__).parents[1] / "bench"
PEERS = {"cp -r", "apply", "in memory"}


@pytest.mark.slow
def test_bench_apply_runs_and_checks_what_it_measures(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    command = [sys.executable, BENCH / "apply.py", "--sizes", "0.01B", "--rounds", "1", "--variant", ""]
    command += ["--folder", tmp_path, "--inputs", tmp_path / "inputs", "--out", out]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    (result,) = json.loads(out.read_text())["results"]
    assert all(round_.keys() == PEERS for round_ in result["rounds"])
    assert result["right"]["apply"] > 0.9999
    assert not result["left_out"]


@pytest.mark.slow
def test_bench_generation_runs(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    command = [sys.executable, BENCH / "generation.py", *tiny_pair(tmp_path), "--out", out]
    command += ["--batches", "2", "--batch-size", "8", "--max-tokens", "12", "--samples", "2", "--rounds", "2"]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    rounds = json.loads(out.read_text())["rounds"]
    assert len(rounds) == 2
    assert all(run["replies"] == 16 and 16 <= run["tokens"] <= 16 * 12 for peers in rounds for run in peers.values())


def test_bench_strategies_replays_tables_and_worlds(tmp_path: Path) -> None:
    """Of a pair whose reward rises with alpha, which stammers at 4 and is cut off there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    drawn = random.Random(0)
    alphas = {"theta0": (-1.0,), "pair": (-0.5, 0.0, 0.5, 1.0, 2.0, 4.0)}
    for name, mine in alphas.items():
        rows = [
            {
                "alpha": alpha,
                "prompt": f"p{prompt:03}",
                "sample": sample,
                "reward": drawn.gauss(alpha, 0.5),
                "log_probability": drawn.gauss(-5 if alpha == 4 else -1, 0.2),
                "tokens": drawn.randint(20, 40),
                "truncated": alpha == 4,
                "opening": "Oh oh oh oh" if alpha == 4 else f"{prompt} {sample} {alpha}",
            }
            for alpha in mine
            for sample in (0, 1)
            for prompt in range(64)
        ]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{name}.parquet")
    out = tmp_path / "results.json"
    command = [sys.executable, BENCH / "strategies", tmp_path / "pair.parquet", "--worlds", "usual"]
    command += ["--replays", "4", "--prompts", "64", "--out", out]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    groups = json.loads(out.read_text())["groups"]
    assert groups.keys() >= {"usual", "pair"}
    race, paper = groups["pair"]["measures"]["race, best"], groups["pair"]["measures"]["paper, best fitting"]
    assert groups["pair"]["verdicts"]["race, best"]["SHIP"] == race["ships"] == 1
    assert groups["pair"]["verdicts"]["paper, best fitting"]["COLLAPSE"] == 1
    assert race["completions/paper"] < 1 == paper["completions/paper"]


def test_bench_check_tells_a_wrong_output(tmp_path: Path) -> None:
    subprocess.run([sys.executable, BENCH / "pair.py", "0.01B", tmp_path / "pair"], check=True, capture_output=True)
    theta0, theta1 = tmp_path / "pair/theta0", tmp_path / "pair/theta1"
    for alpha, out, right in (("0", theta1, True), ("-1", theta0, True), ("0.3", theta1, False)):
        told = subprocess.run([sys.executable, BENCH / "check.py", theta0, theta1, out, alpha], capture_output=True)
        assert (float(told.stdout) > 0.9999) == right
