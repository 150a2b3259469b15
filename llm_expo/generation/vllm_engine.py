"""The engine on vLLM, which runs in a process of its own, under the interpreter that the user names.

vLLM pins versions that exclude ours, and gives its memory back for certain only when its process ends. This side knows
the pair, prompts, texts and settings; `vllm_child.py` is the other side. theta(alpha) is set in the running vLLM from
the steps of `apply`'s own plan, with `apply`'s kernel; or, where theta1 is an adapter on theta0, it is the adapter that
`apply` writes, beside a theta0 that stays as it is.
"""

import logging
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import llm_expo
from llm_expo.checkpoints import Checkpoint, fingerprint
from llm_expo.checkpoints.adapter import Adapter
from llm_expo.checkpoints.calculated import Source
from llm_expo.checkpoints.header import Tensor
from llm_expo.errors import EngineError
from llm_expo.generation.child import Child, question
from llm_expo.generation.engine import Json, Reply, Request, Text
from llm_expo.generation.moving import folder_at, in_scratch
from llm_expo.generation.noise import stream
from llm_expo.generation.prompts import Prompt
from llm_expo.generation.sampling import Sampling
from llm_expo.generation.vocabulary import Vocabulary
from llm_expo.weights import (
    Direction,
    Extrapolation,
    Move,
    OutputDtype,
    _kernel,
    adapter_on_theta0,
    plan,
    plan_adapter,
)
from llm_expo.weights.pairing import is_embedding

logger = logging.getLogger(__name__)

_CHILD = Path(__file__).with_name("vllm_child.py")

_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}

VARIABLES = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # vLLM's core in the child itself, which alone has to be ended then
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_NO_USAGE_STATS": "1",
}
"""Of vLLM's own, for a child."""


def vllm_options(
    aligned: Checkpoint, dtype: OutputDtype, tensor_parallel: int, memory: float | None, trust_remote_code: bool
) -> dict[str, object]:
    """vLLM's own options, from what `VllmEngine` takes."""
    options: dict[str, object] = {
        "dtype": _computed_in(aligned, dtype),
        "max_model_len": -1,  # as long as the model's context, or as the memory left for it allows
        "tensor_parallel_size": tensor_parallel,
        "trust_remote_code": trust_remote_code,
    }
    if memory is not None:
        options["gpu_memory_utilization"] = memory
    return options


def vllm_name(python: Path) -> str:
    """What errors call the child."""
    return f"vLLM ({python})"


class VllmEngine:
    """Replies of theta(alpha) through vLLM, with theta1's tokenizer and chat template at every alpha.

    Noise is vLLM's own: each request has a seed, by which the same prompt meets the same noise at every alpha.

    Args:
        direction: the pair; it has to match (`Direction.paired`), unless it is one model alone.
        sampling: how replies are drawn.
        python: the interpreter under which vLLM is installed.
        tensor_parallel: over how many devices the model is cut.
        memory: the share of the device's memory that vLLM takes, as its gpu_memory_utilization; None is vLLM's own.
        dtype: what theta(alpha) is rounded to, as `apply` writes it, and computed in; "keep" is theta1's own type.
        scratch: the folder for theta(alpha) where it has to be written (theta1 is an adapter or a difference), whole or
            as an adapter; a temporary one if None.
        log: the file for what vLLM says; a temporary one if None.
        trust_remote_code: let the checkpoints' own Python code run.
    """

    def __init__(
        self,
        direction: Direction,
        sampling: Sampling,
        *,
        python: Path,
        tensor_parallel: int = 1,
        memory: float | None = None,
        dtype: OutputDtype = "keep",
        scratch: Path | None = None,
        log: Path | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        if not direction.is_alone:
            direction.paired()
        self._direction = direction
        self._sampling = sampling
        self._python = python
        self._tensor_parallel = tensor_parallel
        self._memory = memory
        self._dtype: OutputDtype = dtype
        self._scratch = scratch
        self._log = log
        self._trust_remote_code = trust_remote_code
        self._vocabulary = Vocabulary(direction.aligned, trust_remote_code)
        self._adapter = _adapter_for_vllm(direction)
        self._took_adapter = False
        self._child: Child | None = None
        self._alpha: float | None = None

    @cached_property
    def settings(self) -> dict[str, Json]:
        return {
            "engine": "vllm/2",  # counts what we ask of vLLM: a study is not continued with another
            "theta0": fingerprint(self._direction.initial),
            "theta1": fingerprint(self._direction.aligned),
            "dtype": self._dtype,
            "tokenizer and template": self._vocabulary.digest,
            **asdict(self._sampling),
        }

    @cached_property
    def environment(self) -> dict[str, Json]:
        facts = question([str(self._python), str(_CHILD), "facts"], vllm_name(self._python))
        return {"llm-expo": llm_expo.__version__, **facts, "tensor parallel": self._tensor_parallel}

    def encode(self, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
        # To read a reply, vLLM has to make one token more.
        return self._vocabulary.encode(prompts, self._sampling.max_tokens + 1)

    @property
    def special_tokens(self) -> Mapping[int, str]:
        return self._vocabulary.special_tokens

    def move(self, alpha: float) -> None:
        if self._child is not None and alpha == self._alpha:
            return
        self._alpha = None
        if self._child is None and self._adapter is not None:
            self._child = self._started_beside(self._adapter)
        if self._adapter is not None:
            self._adapt(self._adapter, alpha)
        else:
            self._set_weights(alpha)
        self._alpha = alpha

    def _adapt(self, adapter: Adapter, alpha: float) -> None:
        if alpha == -1:
            self._ask("adapt", folder=None)
            return
        with in_scratch(plan_adapter(self._direction.initial, adapter, alpha), self._scratch) as folder:
            self._ask("adapt", folder=str(folder))

    def _set_weights(self, alpha: float) -> None:
        with ExitStack() as stack:
            folder, steps = self._direction.aligned.path, self._steps(alpha)
            if steps is None:
                folder = stack.enter_context(folder_at(alpha, self._direction, self._scratch, self._dtype))
                steps = [_loaded(tensor) for tensor in Checkpoint.open(folder).tensors.values()]
            if self._child is None:
                self._child = self._started(folder)
            self._ask("move", steps=steps)

    def rest(self) -> None:
        if self._child is not None and not self._ask("rest"):
            self._child.close()
            self._child = None

    def generate(self, alpha: float, batches: Iterable[Sequence[Request]]) -> Iterator[list[Reply]]:
        sampling = {**asdict(self._sampling), "stop_token_ids": self._vocabulary.stops}
        del sampling["seed"]
        for batch in batches:
            self.move(alpha)
            rows = self._ask(
                "generate",
                prompts=[request.tokens for request in batch],
                seeds=[self._seed(request) for request in batch],
                sampling=sampling,
            )
            yield [self._vocabulary.reply(row) for row in rows]

    def log_probabilities(self, alpha: float, batches: Iterable[Sequence[Text]]) -> Iterator[list[float]]:
        for batch in batches:
            self.move(alpha)
            prompts, replies = zip(*batch, strict=True)
            yield self._ask("read", prompts=prompts, replies=replies)

    def _steps(self, alpha: float) -> list[dict[str, object]] | None:
        if not self._direction.is_alone:
            return _steps(plan(self._direction, alpha, dtype=self._dtype))
        if alpha != 0:
            raise EngineError(f"alpha {alpha}: one model alone has no direction to go in")
        return [_loaded(tensor) for tensor in self._direction.aligned.tensors.values()]

    def _seed(self, request: Request) -> int:
        """63 bits, which vLLM takes; the same at every alpha."""
        return stream(self._sampling.seed, request.prompt, request.noise) & (2**63 - 1)

    def _started_beside(self, adapter: Adapter) -> Child | None:
        """vLLM on theta0, for adapters; None, once and for all, where it does not do with this one."""
        ranks = (adapter.scales.rank, *adapter.scales.ranks.values(), *(each.rank for each in adapter.updates.values()))
        about = {"folder": str(adapter.path), "rank": int(max(ranks)), "modules": sorted(adapter.updates)}
        try:
            child = self._started(self._direction.initial.path, about)
        except EngineError as error:
            if self._took_adapter:
                raise
            logger.info("theta(alpha) is written whole, since the adapter will not do: %s", error)
            self._adapter = None
            return None
        self._took_adapter = True
        return child

    def _started(self, folder: Path, adapter: Mapping[str, object] | None = None) -> Child:
        _ = self.environment  # fails at once where vLLM is missing
        log = self._log or Path(tempfile.mkdtemp(prefix="llm-expo-vllm-")) / "vllm.log"
        logger.info("starting vLLM on %s; its log: %s", folder, log)
        child = Child([str(self._python), str(_CHILD)], VARIABLES, log, vllm_name(self._python))
        options = vllm_options(
            self._direction.aligned, self._dtype, self._tensor_parallel, self._memory, self._trust_remote_code
        )
        child.ask({"model": str(folder), "kernel": _kernel.__file__, "options": options, "adapter": adapter})
        return child

    def _ask(self, what: str, **about: object) -> Any:
        assert self._child is not None
        try:
            return self._child.ask({"do": what, **about})
        except BaseException:
            self._child = self._alpha = None  # the next question is another child's
            raise


def _computed_in(aligned: Checkpoint, dtype: OutputDtype) -> str:
    """The type of most of theta1's weights, as vLLM calls it, unless another was asked for."""
    if dtype != "keep":
        return dtype
    elements: Counter[str] = Counter()
    for tensor in aligned.tensors.values():
        elements[tensor.dtype] += prod(tensor.shape)
    return next(_NAMES[dtype] for dtype, _ in elements.most_common() if dtype in _NAMES)


def _adapter_for_vllm(direction: Direction) -> Adapter | None:
    """theta1's adapter, where alpha is nothing but its scale. Beside that of a head, vLLM 0.32 reads no prompts."""
    adapter = adapter_on_theta0(direction)
    if adapter is not None and not any(is_embedding(each.module, each.b) for each in adapter.updates.values()):
        return adapter
    if direction.aligned.adapter is not None:
        logger.info("theta(alpha) is written whole: vLLM takes an adapter on theta0, not on its head or embeddings")
    return None


def _steps(extrapolation: Extrapolation) -> list[dict[str, object]] | None:
    """What the child is to load, by name; None where a side is more than bytes of a file."""
    steps = []
    for step in extrapolation.steps:
        if not isinstance(step, Move):
            steps.append(_loaded(step.source, step.target.name))
        elif isinstance(step.initial, Tensor) and isinstance(step.aligned, Tensor):
            moved = {"initial": _bytes(step.initial), "dtype": step.target.dtype, "alpha": step.alpha}
            steps.append(_loaded(step.aligned, step.target.name) | moved)
        else:
            return None
    return steps


def _loaded(source: Source, name: str | None = None) -> dict[str, object]:
    assert isinstance(source, Tensor)
    return {"name": name or source.name, "dtype": source.dtype, "initial": None, "aligned": _bytes(source)}


def _bytes(tensor: Tensor) -> dict[str, object]:
    place = {"file": str(tensor.file), "start": tensor.start, "stop": tensor.stop}
    return {**place, "dtype": tensor.dtype, "shape": tensor.shape}
