"""How far two sets of weights lie apart: counts and sums, and what follows from them. Knows nothing of names and files.

The sums are of squares only. By the law of cosines, an inner product follows from three of them, so two checkpoints, or
three, need one measure between each two of them and no other pass.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Distance:
    """Counts and sums over the weights that were compared; the distances of parts add up to that of the whole.

    An undefined ratio (nothing compared, a norm of zero) is None.
    """

    elements: int = 0
    equal: int = 0
    one_ulp: int = 0  # not equal, but neighbours among the numbers of the coarser dtype
    squared: float = 0.0  # |theta1 - theta0|^2
    squared_initial: float = 0.0  # |theta0|^2
    squared_aligned: float = 0.0  # |theta1|^2

    def __add__(self, other: "Distance") -> "Distance":
        return Distance(
            self.elements + other.elements,
            self.equal + other.equal,
            self.one_ulp + other.one_ulp,
            self.squared + other.squared,
            self.squared_initial + other.squared_initial,
            self.squared_aligned + other.squared_aligned,
        )

    @property
    def norm(self) -> float:
        """Frobenius norm of theta1 - theta0."""
        return math.sqrt(self.squared)

    @property
    def norm_initial(self) -> float:
        """Frobenius norm of theta0."""
        return math.sqrt(self.squared_initial)

    @property
    def norm_per_root_element(self) -> float | None:
        """norm / sqrt(elements): the root mean square change of a weight."""
        return self.norm / math.sqrt(self.elements) if self.elements else None

    @property
    def norm_relative(self) -> float | None:
        """norm / norm of theta0."""
        return self.norm / self.norm_initial if self.squared_initial else None

    @property
    def share_equal(self) -> float | None:
        return self.equal / self.elements if self.elements else None

    @property
    def share_one_ulp(self) -> float | None:
        """Share of the elements that differ, but by one unit in the last place of the coarser dtype only."""
        return self.one_ulp / self.elements if self.elements else None

    @property
    def share_beyond(self) -> float | None:
        """Share of the elements that differ by more than one unit in the last place."""
        return (self.elements - self.equal - self.one_ulp) / self.elements if self.elements else None

    @property
    def cosine(self) -> float | None:
        """Cosine of the angle between theta0 and theta1 themselves."""
        return cosine(self.squared_initial, self.squared_aligned, self.squared)


def cosine_of_turn(first: Distance, second: Distance, whole: Distance) -> float | None:
    """Cosine between the directions a -> b (`first`) and b -> c (`second`); `whole` is the distance a -> c."""
    turned = cosine(first.squared, second.squared, whole.squared)
    return None if turned is None else -turned or 0.0


def cosine(squared_one: float, squared_other: float, squared_apart: float) -> float | None:
    """Of the angle between two vectors, by their squared norms and their squared distance; None where one is zero."""
    if not squared_one or not squared_other:
        return None
    product = math.sqrt(squared_one) * math.sqrt(squared_other)
    return min(1.0, max(-1.0, (squared_one + squared_other - squared_apart) / 2 / product))
