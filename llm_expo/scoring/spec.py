"""From what a user writes after `--scorer` to a scorer."""

from llm_expo.errors import ScorerError
from llm_expo.scoring.function import load_function
from llm_expo.scoring.scorer import Scorer


def scorer_from(spec: str, *, device: str | None = None, trust_remote_code: bool = False) -> Scorer:
    """`reward-model:PATH_OR_ID` or `function:package.module:name`.

    Raises:
        ScorerError: for anything else, and when the model or function cannot be had.
    """
    kind, _, what = spec.partition(":")
    if kind == "function":
        return load_function(what)
    if kind == "reward-model" and what:
        from llm_expo.scoring.reward_model import RewardModelScorer

        return RewardModelScorer(what, device=device, trust_remote_code=trust_remote_code)
    raise ScorerError(f"{spec!r} is no scorer; write reward-model:PATH_OR_ID or function:package.module:name")
