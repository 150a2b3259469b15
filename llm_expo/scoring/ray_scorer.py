"""Replicas of a scorer on a Ray cluster. Conversations of like length go to one replica, as reward models like it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from llm_expo.cluster.connection import connected
from llm_expo.cluster.dispatch import Dispatcher
from llm_expo.cluster.replicas import Replicas, gpus_each, threads_each
from llm_expo.errors import ScorerError
from llm_expo.scoring.scorer import Conversation, Progress, Scorer, unwatched
from llm_expo.scoring.spec import scorer_from

_CHARACTERS = 1 << 15
"""Of a chunk, each conversation as long as its longest: some batches of a reward model's."""


class RayScorer:
    """A Scorer whose work is done by replicas of another one; `ray_scorer_from` is the way in.

    Who scores what changes nothing: chunks depend on the conversations alone. Rewards are those of one scorer up to
    rounding, since what shares a batch is not the same.

    Args:
        name: of the scorer that there are replicas of: a study may go on with the one or the other.
        make: called where a replica is.
        cpus, gpus: of each replica, as Ray counts them.
    """

    def __init__(self, name: str, make: Callable[[], Scorer], *, replicas: int, cpus: int, gpus: int) -> None:
        self.name = name
        self._replicas = Replicas([make] * replicas, cpus=cpus, gpus=gpus, failure=ScorerError)
        self._dispatcher: Dispatcher[Any, Any] = Dispatcher(
            self._replicas, replicas, lambda line: ScorerError(f"{name}: {line}")
        )

    def score(self, conversations: Sequence[Conversation], progress: Progress = unwatched) -> list[float]:
        """See `Scorer`.

        Raises:
            ScorerError: also where no replica is left, or replicas died again and again at the same conversations.
        """
        chunks = chunked([sum(len(message["content"]) for message in each) for each in conversations])
        jobs = (partial(_scores, [conversations[place] for place in chunk]) for chunk in chunks)
        values = [0.0] * len(conversations)
        done = 0
        for chunk, scores in zip(chunks, self._dispatcher.each(jobs), strict=True):
            for place, score in zip(chunk, scores, strict=True):
                values[place] = score
            done += len(chunk)
            progress(done, len(conversations))
        return values

    def end(self) -> None:
        """End all replicas."""
        self._replicas.end()


@contextmanager
def ray_scorer_from(
    spec: str,
    *,
    replicas: int,
    address: str | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> Iterator[RayScorer]:
    """Replicas of `reward-model:PATH_OR_ID` on a Ray cluster, until they are no longer wanted.

    On a CPU they claim no cores, so that they fit beside an engine's replicas: the two work in turns.

    Args:
        spec, trust_remote_code: as `scorer_from` has them.
        address: of the cluster, HOST:PORT; see `connected` for None.
        device: "cuda", of which each replica gets one for itself, or "cpu"; None takes GPUs if there are enough.

    Raises:
        MissingExtraError: Ray is not installed.
        ScorerError: it is no reward model's spec, or the cluster has no room for so many replicas.
        ExpoError: there is no cluster at the address.
    """
    kind, _, source = spec.partition(":")
    if kind != "reward-model" or not source:
        raise ScorerError(f"{spec}: replicas are of reward models only; write reward-model:PATH_OR_ID")
    if replicas < 1:
        raise ScorerError(f"{replicas} replicas of {spec}: there has to be at least one")
    with connected(address):
        gpus = gpus_each(replicas) if device is None else int(device != "cpu")
        if gpus and not gpus_each(replicas):
            raise ScorerError(f"{replicas} replicas of {spec}: the Ray cluster has fewer GPUs; a replica takes one")
        if device not in (None, "cpu", "cuda"):
            raise ScorerError(f"--device {device}: on a cluster Ray says which GPU is whose; write --device cuda")
        make = partial(
            _made,
            spec,
            Path(source).exists(),
            max(1, threads_each(replicas)),
            "cuda" if gpus else "cpu",
            trust_remote_code,
        )
        scorer = RayScorer(spec, make, replicas=replicas, cpus=0, gpus=gpus)
        try:
            yield scorer
        finally:
            scorer.end()


def chunked(lengths: Sequence[int]) -> list[list[int]]:
    """Places of the conversations in chunks, the longest first."""
    left = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    chunks = []
    while left:
        size = max(1, _CHARACTERS // max(1, lengths[left[0]]))
        chunks.append(left[:size])
        left = left[size:]
    return chunks


# -- on a node -------------------------------------------------------------------------------------------------------


def _made(spec: str, is_folder: bool, threads: int, device: str, trust_remote_code: bool) -> Scorer:
    import torch

    folder = spec.partition(":")[2]
    if is_folder and not Path(folder).exists():
        raise ScorerError(f"{spec}: is not there; it has to lie on storage that every node sees under the same path")
    torch.set_num_threads(threads)
    return scorer_from(spec, device=device, trust_remote_code=trust_remote_code)


def _scores(conversations: Sequence[Conversation], scorer: Scorer, _: Event) -> list[float]:
    return scorer.score(conversations)
