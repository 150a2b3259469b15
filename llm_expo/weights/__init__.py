"""theta: two checkpoints, the direction between them, and a new checkpoint along it. Knows nothing of text or rewards.

    Direction       the pair (initial = theta0, aligned = theta1)
    plan            Direction, alpha -> Extrapolation: a step for every tensor
    write, apply    Extrapolation -> a model folder; apply does all of it in one call
    compare         Direction -> Comparison: how far the two lie apart

None of this needs torch. For tensors and models in memory, which do, there is llm_expo.weights.memory.
"""

from llm_expo.weights.comparison import Comparison, Mover, compare
from llm_expo.weights.direction import Direction
from llm_expo.weights.extrapolation import Copy, Extrapolation, Move, Step, plan
from llm_expo.weights.kernel import Rounding
from llm_expo.weights.writing import Written, apply, write

__all__ = [
    "Comparison",
    "Copy",
    "Direction",
    "Extrapolation",
    "Move",
    "Mover",
    "Rounding",
    "Step",
    "Written",
    "apply",
    "compare",
    "plan",
    "write",
]
