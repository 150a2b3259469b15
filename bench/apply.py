"""`llm-expo apply` beside `cp` of one checkpoint, in turn: a generated bf16 pair, whole processes, start-up included.

    python bench/apply.py [--gigabytes 1] [--rounds 5] [--folder /dev/shm]

Needs about five times the size in FOLDER. The page cache is warm after the first round, which is not counted.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

TENSORS = 24


def write_pair(folder: Path, nbytes: int) -> tuple[Path, Path]:
    """Two folders that `apply` takes: equal but for about half of the weights, which differ in their last bit."""
    rng = np.random.default_rng(0)
    rows = nbytes // 2 // TENSORS // 4096
    header, offset = {}, 0
    for index in range(TENSORS):
        size = rows * 4096 * 2
        header[f"layers.{index}.weight"] = {
            "dtype": "BF16",
            "shape": [rows, 4096],
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    folders = (folder / "theta0", folder / "theta1")
    for path in folders:
        path.mkdir()
        (path / "config.json").write_text("{}")
        with (path / "model.safetensors").open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
    for _ in range(TENSORS):
        # bf16 bits of numbers around 0.02: sign, exponent 0x79 to 0x7A, any mantissa
        bits = rng.integers(0x3C80, 0x3D00, rows * 4096, dtype=np.uint16)
        moved = bits ^ rng.integers(0, 2, rows * 4096, dtype=np.uint16)
        for path, content in zip(folders, (bits, moved), strict=True):
            with (path / "model.safetensors").open("ab") as file:
                file.write(content.tobytes())
    return folders


def seconds(command: list[str], out: Path) -> float:
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0, help="of each checkpoint")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        folder = Path(scratch)
        theta0, theta1 = write_pair(folder, round(options.gigabytes * 1e9))
        out = folder / "out"
        apply = [
            sys.executable,
            "-m",
            "llm_expo.cli",
            "apply",
            str(theta0),
            str(theta1),
            "--alpha",
            "0.3",
            "--out",
            str(out),
        ]
        commands = {
            "cp": ["cp", "-r", str(theta1), str(out)],
            "apply": apply,
            "import torch": [sys.executable, "-c", "import torch"],
        }
        rounds = [
            {name: seconds(command, out) for name, command in commands.items()} for _ in range(options.rounds + 1)
        ]
    for name in commands:
        mine = [each[name] for each in rounds[1:]]
        ratio = [each[name] / each["cp"] for each in rounds[1:]]
        spread = f"{min(ratio):.1f} to {max(ratio):.1f}"
        print(f"{name:14} median {statistics.median(mine):.2f} s, {statistics.median(ratio):.1f} times cp ({spread})")


if __name__ == "__main__":
    main()
