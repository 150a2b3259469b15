"""What a training tells whoever watches it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Stepped:
    """A step is done."""

    step: int
    steps: int  # that the run trains in all
    loss: float
    seconds_left: float


@dataclass(frozen=True, slots=True)
class Kept:
    """A model is in its folder."""

    path: Path
    step: int
    warnings: tuple[str, ...]  # of what the way it is stored loses
