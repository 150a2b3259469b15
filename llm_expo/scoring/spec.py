"""From what a user writes after `--scorer` to a scorer."""

import importlib.util
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llm_expo.errors import MissingExtraError, ScorerError
from llm_expo.scoring.file import FileScorer
from llm_expo.scoring.function import load_function
from llm_expo.scoring.scorer import Comparer, Scorer

if TYPE_CHECKING:
    from llm_expo.scoring.endpoint import Endpoint

FORMS = "reward-model:PATH_OR_ID, function:package.module:name, file:SCORES.jsonl"


def scorers_from(
    specs: Sequence[str],
    make: Callable[[str], Scorer],
    *,
    answers: Path,
    prices: tuple[float, float] | None = None,
    timeout: float | None = None,
) -> list[Scorer | Comparer]:
    """The scorers of a study: the first one chooses, the others check it.

    Beside what `make` takes, `judge:MODEL` or `judge:MODEL@URL`, an OpenAI-compatible endpoint.

    Args:
        make: from a spec to its scorer, as `scorer_from` does.
        answers: the file in which judges' answers are kept; it belongs into the study's folder.
        prices: of a million tokens that a judge reads, and of a million that it writes.
        timeout: seconds to wait for one answer of a judge.

    Raises:
        ScorerError: a spec is none, stands twice, or cannot be had (a judge is asked whether it is there).
    """
    scorers = [_judge(spec, answers, prices, timeout) if spec.startswith("judge:") else make(spec) for spec in specs]
    name, times = Counter(scorer.name for scorer in scorers).most_common(1)[0]
    if times > 1:
        raise ScorerError(f"{name} is given {times} times; a second scorer has to be another one")
    return scorers


def scorer_from(spec: str, *, device: str | None = None, trust_remote_code: bool = False) -> Scorer:
    """`reward-model:PATH_OR_ID`, `function:package.module:name` or `file:SCORES.jsonl`.

    Raises:
        ScorerError: for anything else, and when the model, function or file cannot be had.
    """
    kind, _, what = spec.partition(":")
    if kind == "function":
        return load_function(what)
    if kind == "file" and what:
        return FileScorer(Path(what))
    if kind == "reward-model" and what:
        from llm_expo.scoring.reward_model import RewardModelScorer

        return RewardModelScorer(what, device=device, trust_remote_code=trust_remote_code)
    raise ScorerError(f"{spec!r} is no scorer; write {FORMS} or judge:MODEL@URL")


def endpoint_from(
    spec: str, answers: Path, prices: tuple[float, float] | None = None, timeout: float | None = None
) -> "Endpoint":
    """The endpoint MODEL or MODEL@URL.

    Raises ScorerError where it names no model or no usable address, MissingExtraError without the client.
    """
    model, url = _model_and_url(spec)
    if not model:
        raise ScorerError(f"{spec!r} names no model; write MODEL, or MODEL@http://HOST:PORT/v1")
    if importlib.util.find_spec("openai") is None:
        raise MissingExtraError("openai", "judge")
    from llm_expo.scoring.endpoint import Endpoint

    return Endpoint(model, answers, url=url, prices=prices, timeout=timeout)


def _judge(spec: str, answers: Path, prices: tuple[float, float] | None, timeout: float | None) -> Comparer:
    endpoint = endpoint_from(spec.removeprefix("judge:"), answers, prices, timeout)
    from llm_expo.scoring.judge import JudgeScorer

    judge = JudgeScorer(endpoint)
    judge.check()
    return judge


def _model_and_url(text: str) -> tuple[str, str | None]:
    """The parts of MODEL@URL; a model's own name may hold an @, as a revision does."""
    for scheme in ("@http://", "@https://"):
        model, at, rest = text.partition(scheme)
        if at:
            return model, scheme[1:] + rest
    return text, None
