"""What lies between theta0 and theta1, and what a step along it did: counts and sums over chunks, added up over a run.

bfloat16 storage swallows small steps: where theta1 - theta0 is one unit in the last place, alpha = 0.4 changes nothing.
So every run says what share of the differing weights moved at all, and at which alpha the result really stands. Knows
nothing of names and files.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from llm_expo.weights.kernel import arithmetic_dtype

# Squares within these bounds lost nothing to float32's range.
_SMALLEST, _LARGEST = 1e-25, 1e35


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts and sums over the weights that were moved; the tallies of parts add up to that of the whole."""

    elements: int = 0
    differing: int = 0  # whose theta0 and theta1 are not the same bits
    swallowed: int = 0  # of those, whose result is theta1, bit for bit
    along: float = 0.0  # <result - theta1, theta1 - theta0>
    squared: float = 0.0  # <theta1 - theta0, theta1 - theta0>

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.elements + other.elements,
            self.differing + other.differing,
            self.swallowed + other.swallowed,
            self.along + other.along,
            self.squared + other.squared,
        )

    @property
    def share_differing(self) -> float | None:
        """Share of the weights that differ between theta0 and theta1; None where none was moved."""
        return self.differing / self.elements if self.elements else None

    @property
    def share_swallowed(self) -> float | None:
        """Share of the differing weights that rounding left at theta1; None where none differs."""
        return self.swallowed / self.differing if self.differing else None

    @property
    def realised_alpha(self) -> float | None:
        """The projection of result - theta1 on the direction, in units of it; None where the direction is zero.

        Six digits: within a chunk the sums are float32's.
        """
        return float(f"{self.along / self.squared:.6g}") if self.squared else None


@dataclass(frozen=True, slots=True)
class Distance:
    """Counts and sums over the weights that were compared; the distances of parts add up to that of the whole."""

    elements: int = 0
    differing: int = 0  # whose theta0 and theta1 are not the same bits
    squared: float = 0.0  # <theta1 - theta0, theta1 - theta0>
    squared_initial: float = 0.0  # <theta0, theta0>

    def __add__(self, other: "Distance") -> "Distance":
        return Distance(
            self.elements + other.elements,
            self.differing + other.differing,
            self.squared + other.squared,
            self.squared_initial + other.squared_initial,
        )


class Measure:
    """Measures chunks of at most `size` elements, flat and left as they are, in scratch memory of its own."""

    def __init__(self, size: int) -> None:
        # Memory that is used again: fresh memory for every chunk would make this several times slower.
        self._wide = torch.empty(3, size)
        self._masks = np.empty((2, size), dtype=np.bool_)

    def step(self, initial: torch.Tensor, aligned: torch.Tensor, result: torch.Tensor) -> Tally:
        """What moving a chunk did."""
        differs, stays = self._masks[:, : len(aligned)]
        _compare(np.not_equal, initial, aligned, differs)
        differing = int(np.count_nonzero(differs))
        if not differing:
            return Tally(elements=len(aligned))
        _compare(np.equal, result, aligned, stays)
        stays &= differs
        squared, along = self._sums(_sums_of_step, initial, aligned, result)
        return Tally(len(aligned), differing, int(np.count_nonzero(stays)), along, squared)

    def distance(self, initial: torch.Tensor, aligned: torch.Tensor) -> Distance:
        """How far a chunk of theta1 lies from theta0's."""
        differs = self._masks[0, : len(aligned)]
        _compare(np.not_equal, initial, aligned, differs)
        squared, squared_initial = self._sums(_sums_of_distance, initial, aligned)
        return Distance(len(aligned), int(np.count_nonzero(differs)), squared, squared_initial)

    def _sums(self, sums: Callable[..., tuple[float, float]], *chunks: torch.Tensor) -> tuple[float, float]:
        """`sums` of the chunks, which it may overwrite: in float32 where that is enough, else in float64."""
        if arithmetic_dtype(*chunks) == torch.float32:
            found = sums(*(wide[: len(chunk)].copy_(chunk) for wide, chunk in zip(self._wide, chunks, strict=False)))
            if all(value == 0 or _SMALLEST < abs(value) < _LARGEST for value in found) and found[0] > 0:
                return found
        return sums(*(chunk.to(torch.float64, copy=True) for chunk in chunks))


def _sums_of_step(initial: torch.Tensor, aligned: torch.Tensor, result: torch.Tensor) -> tuple[float, float]:
    direction, step = torch.sub(aligned, initial, out=initial), result.sub_(aligned)
    return float(torch.dot(direction, direction)), float(torch.dot(step, direction))


def _sums_of_distance(initial: torch.Tensor, aligned: torch.Tensor) -> tuple[float, float]:
    direction = aligned.sub_(initial)
    return float(torch.dot(direction, direction)), float(torch.dot(initial, initial))


_Bits = npt.NDArray[np.signedinteger[Any]]


def _compare(
    relation: Callable[[_Bits, _Bits, npt.NDArray[np.bool_]], object],
    one: torch.Tensor,
    other: torch.Tensor,
    into: npt.NDArray[np.bool_],
) -> None:
    """Element by element as bits, in the wider dtype where the two differ."""
    if one.dtype != other.dtype:
        wide = arithmetic_dtype(one, other)
        one, other = one.to(wide), other.to(wide)
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[one.element_size()]
    # NumPy: torch takes five times as long for 16-bit comparisons.
    relation(one.view(integers).numpy(), other.view(integers).numpy(), into)
