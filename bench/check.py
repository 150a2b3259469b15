"""Looks whether a folder holds theta1 + alpha * (theta1 - theta0): a benchmark of wrong output is worth nothing.

    python bench/check.py THETA0 THETA1 OUT ALPHA

Prints the share of weights that are right, that is, equal to the sum in float64 rounded once to bf16, over up to 32 Ki
neighbouring weights at a random place of every tensor and its last 64. Where the sum is done in float32 it is above
0.9999. Fails unless OUT holds theta1's tensors by name and shape.

Needs numpy. Shares no code with llm_expo.
"""

import json
import math
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RUN = 32 * 1024
TAIL = 64


@dataclass(frozen=True, slots=True)
class Tensor:
    file: Path
    start: int  # of its first byte in the file
    shape: tuple[int, ...]

    def bits(self, at: int, count: int) -> NDArray[np.uint16]:
        return np.fromfile(self.file, np.uint16, count, offset=self.start + 2 * at)


def tensors(folder: Path) -> dict[str, Tensor]:
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            assert entry["dtype"] == "BF16", f"{path}: {name} is {entry['dtype']}"
            found[name] = Tensor(path, 8 + length + entry["data_offsets"][0], tuple(entry["shape"]))
    return found


def values(bits: NDArray[np.uint16]) -> NDArray[np.float64]:
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def rounded(exact: NDArray[np.float64]) -> NDArray[np.float64]:
    """To bf16, 8 significant bits, ties to even; for values in bf16's normal range."""
    fraction, exponent = np.frexp(exact)
    result: NDArray[np.float64] = np.ldexp(np.rint(np.ldexp(fraction, 8)), exponent - 8)
    return result


def share_right(theta0: Path, theta1: Path, out: Path, alpha: float) -> float:
    initial, aligned, made = tensors(theta0), tensors(theta1), tensors(out)
    assert made.keys() == aligned.keys(), f"{out} lacks or adds {sorted(made.keys() ^ aligned.keys())[:5]}"
    right = looked = 0
    for name, tensor in made.items():
        assert tensor.shape == aligned[name].shape, f"{out}: {name} has shape {tensor.shape}"
        size = math.prod(tensor.shape)
        for at, count in ((random.randrange(max(1, size - RUN)), min(RUN, size)), (max(0, size - TAIL), TAIL)):
            t0, t1 = (values(each[name].bits(at, count)) for each in (initial, aligned))
            right += int(np.sum(rounded(t1 + alpha * (t1 - t0)) == values(tensor.bits(at, count))))
            looked += len(t0)
    return right / looked


if __name__ == "__main__":
    theta0, theta1, out = map(Path, sys.argv[1:4])
    print(share_right(theta0, theta1, out, float(sys.argv[4])))
