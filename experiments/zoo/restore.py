"""A zoo that goes on where another machine left it: what results/ keeps becomes DIR's pairs of replies and tables.

    python experiments/zoo/restore.py DIR

After it, `make.py DIR` samples nothing, measures only the alphas that are missing, and trains only what those need.
The models are trained anew from the same pairs of replies and recipes: another processor rounds otherwise, so theirs
are the same runs, but not the same bits.
"""

import argparse
import shutil
from pathlib import Path

import journal
import pyarrow.parquet as pq
from reply_pairs import pairs_of
from results import KEPT_PAIRS, LOG, PARTIAL, RESULTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    folder: Path = parser.parse_args().folder
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    for path in sorted(RESULTS.glob("*.parquet")):
        rows = pq.read_table(path).to_pylist()
        if path.stem.startswith(KEPT_PAIRS):
            out = pairs_of(folder, path.stem.removeprefix(KEPT_PAIRS))
        else:
            out = folder / "tables" / f"{path.name.removesuffix('.parquet').removesuffix(PARTIAL)}.jsonl"
            alphas = dict.fromkeys(row["alpha"] for row in rows)
            # a line for each alpha instead of each batch: the batches are gone
            rows = [
                {"alpha": alpha, "batch": None, "rows": [row for row in rows if row["alpha"] == alpha]}
                for alpha in alphas
            ]
        if not out.exists():
            journal.write(out, rows)
    if not (folder / "log.jsonl").exists():
        shutil.copy(LOG, folder / "log.jsonl")


if __name__ == "__main__":
    main()
