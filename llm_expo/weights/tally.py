"""What a step along the direction did: counts and sums over chunks, added up over a run.

bfloat16 storage swallows small steps: where theta1 - theta0 is one unit in the last place, alpha = 0.4 changes nothing.
So every run says what share of the differing weights moved at all, and at which alpha the result really stands. Knows
nothing of names and files; the sums are made by the kernel, in double.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts and sums over the weights that were moved; the tallies of parts add up to that of the whole."""

    elements: int = 0
    differing: int = 0  # whose theta0 and theta1 are not the same number
    swallowed: int = 0  # of those, whose result is theta1, in the result's type
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

        Nine digits: the last ones of the sums depend on how the work was cut into pieces.
        """
        return float(f"{self.along / self.squared:.9g}") if self.squared else None
