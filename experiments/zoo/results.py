"""The tables as they are kept: a Parquet file for each pair, with a row for each reply.

    python experiments/zoo/results.py DIR

Writes experiments/zoo/results/PAIR.parquet of every table in DIR/tables that is whole, and PAIR.partial.parquet of one
that is not yet, for restore.py alone. Along come DIR/log.jsonl, the pairs of replies that the models were trained on
(results/reply_pairs-OBJECTIVE.parquet) and the trainings' metrics (results/training.jsonl).
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

import journal
import pyarrow as pa
import pyarrow.parquet as pq
from objectives import OBJECTIVES
from pairs import PAIRS
from reply_pairs import pairs_of
from table import REPLIES, finished_alphas, next_alpha

RESULTS = Path(__file__).with_name("results")
LOG = RESULTS.with_name("log.jsonl")
PARTIAL = ".partial"
KEPT_PAIRS = "reply_pairs-"
SCHEMA = pa.schema(
    [
        ("alpha", pa.float64()),
        ("prompt", pa.string()),
        ("sample", pa.int8()),  # 0: noise shared by all alphas; 1: fresh noise
        ("reward", pa.float32()),
        ("log_probability", pa.float32()),  # of the reply under theta0, nats per token
        ("tokens", pa.int16()),  # with the end-of-sequence token
        ("truncated", pa.bool_()),  # by the token limit
        ("repetition", pa.float32()),
        ("opening", pa.string()),
        ("text", pa.string()),  # of sample 0 alone: texts are most of the size
    ]
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    folder: Path = parser.parse_args().folder
    RESULTS.mkdir(exist_ok=True)
    for path in sorted((folder / "tables").glob("*.jsonl")):
        lines = journal.read(path)
        whole = path.stem not in PAIRS or next_alpha(finished_alphas(lines)) is None
        keep(pa.Table.from_pylist(finished(lines), schema=SCHEMA), path.stem if whole else f"{path.stem}{PARTIAL}")
        if whole:
            (RESULTS / f"{path.stem}{PARTIAL}.parquet").unlink(missing_ok=True)
    for objective in OBJECTIVES:
        keep(pa.Table.from_pylist(journal.read(pairs_of(folder, objective))), f"{KEPT_PAIRS}{objective}")
    shutil.copy(folder / "log.jsonl", LOG)
    runs = {run.parent.name: run for run in sorted((folder / "runs").glob("*/metrics.jsonl"))}
    kept = [row for row in journal.read(RESULTS / "training.jsonl") if row["recipe"] not in runs]
    trained = [{"recipe": name, **row} for name, run in runs.items() for row in journal.read(run)]
    journal.write(RESULTS / "training.jsonl", sorted(kept + trained, key=lambda row: row["recipe"]))


def keep(table: pa.Table, name: str) -> None:
    pq.write_table(table, RESULTS / f"{name}.parquet", compression="zstd", compression_level=19)


def finished(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the alphas that have all their replies, by alpha, sample and prompt."""
    rows = [
        {"alpha": line["alpha"], **row, "text": row["text"] if row["sample"] == 0 else None}
        for line in lines
        for row in line["rows"]
    ]
    count: dict[float, int] = {}
    for row in rows:
        count[row["alpha"]] = count.get(row["alpha"], 0) + 1
    whole = [row for row in rows if count[row["alpha"]] == REPLIES]
    return sorted(whole, key=lambda row: (row["alpha"], row["sample"], row["prompt"]))


if __name__ == "__main__":
    main()
