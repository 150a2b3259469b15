"""theta: two checkpoints, the direction between them, and a new checkpoint along it. Knows nothing of text or rewards.

    Direction       the pair (initial = theta0, aligned = theta1)
    Sides           the two as they lie on disk, which may be adapters
    plan            Direction, alpha -> Extrapolation: a step for every tensor
    plan_adapter    the same for an adapter that stays one
    write, apply    Extrapolation -> a model folder; apply does all of it in one call
    write_difference    Checkpoints -> theta0's place and the difference in bfloat16: half the bytes of float32
    share_kept      Direction -> what storage in 16 bits keeps of it, and the noise that it adds
    compare         Direction -> Comparison: how far the two lie apart; compare_three for pre-trained, SFT and aligned
    judge           Comparison -> Judgement: what the pair looks like, in a sentence

None of this needs torch. For tensors and models in memory, which do, there is llm_expo.weights.memory.
"""

from llm_expo.weights.adapters import adapter_on_theta0, plan_adapter
from llm_expo.weights.comparison import Comparison, Lineage, Mover, compare, compare_three
from llm_expo.weights.differences import Kept, Stored, WrittenDifference, share_kept, write_difference
from llm_expo.weights.direction import Direction, Sides
from llm_expo.weights.extrapolation import Copy, Extrapolation, Move, OutputDtype, Step, plan
from llm_expo.weights.judgement import Judgement, Likeness, judge, judge_three
from llm_expo.weights.kernel import Rounding
from llm_expo.weights.writing import Written, apply, write

__all__ = [
    "Comparison",
    "Copy",
    "Direction",
    "Extrapolation",
    "Judgement",
    "Kept",
    "Likeness",
    "Lineage",
    "Move",
    "Mover",
    "OutputDtype",
    "Rounding",
    "Sides",
    "Step",
    "Stored",
    "Written",
    "WrittenDifference",
    "adapter_on_theta0",
    "apply",
    "compare",
    "compare_three",
    "judge",
    "judge_three",
    "plan",
    "plan_adapter",
    "share_kept",
    "write",
    "write_difference",
]
