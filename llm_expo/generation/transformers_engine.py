"""The engine on plain transformers: any causal language model that `generate` takes, on a CPU or one GPU.

The sampling is ours, because `generate` has no presence or frequency penalty and draws its noise by batch, and so is
the loop over tokens (`decoding`); what depends on the model (cache, masks, positions) is left to transformers.
"""

import gc
import importlib.util
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from threading import Event
from typing import TypeVar

import torch
import transformers
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

import llm_expo
from llm_expo.checkpoints import fingerprint
from llm_expo.errors import EngineError
from llm_expo.generation.decoding import decode, pad_left
from llm_expo.generation.engine import Json, Reply, Request, Text
from llm_expo.generation.moving import Device, InMemory, LiveModel, OnDisk, Scaled, Still, fits_in_memory
from llm_expo.generation.noise import stream
from llm_expo.generation.packing import pack
from llm_expo.generation.parts import Part, cut, in_parts
from llm_expo.generation.prompts import Prompt
from llm_expo.generation.sampling import Sampling, sample
from llm_expo.generation.vocabulary import Vocabulary
from llm_expo.weights import Direction, OutputDtype, adapter_on_theta0

logger = logging.getLogger(__name__)

A = TypeVar("A")
B = TypeVar("B")

_ROWS_ON_CPU = 32
"""Replies that a thread computes together: more would gain little, and leave other threads without work."""

_FEW_ON_CPU = 16
"""What so few take is the reading of the weights: a thread alone cannot read as fast as memory gives, and two with a
half of the replies each would have to read all weights twice."""

_THREADS_OF_FEW = 2
"""Not as many as there are: how a matrix is shared out among threads may change the last bits of a product."""

_READ_ON_CPU = 8
"""Replies that a thread reads together: what is computed of more of them does not stay in the cache."""

_LOGIT_ELEMENTS = 1 << 26
"""Logits held at once while log-probabilities are read: 256 MiB in float32."""


class TransformersEngine:
    """Replies of theta(alpha) through transformers, with theta1's tokenizer and chat template at every alpha.

    Args:
        direction: the pair; it has to match (`Direction.paired`), unless it is one model alone.
        sampling: how replies are drawn.
        device: where the live model is, such as "cpu" or "cuda"; None takes a GPU if there is one, "auto" spreads the
            model over all of them (by accelerate).
        dtype: what theta(alpha) is rounded to, as `apply` writes it, and computed in; "keep" is theta1's own type.
        low_memory: write each theta(alpha) to disk even where memory would hold both checkpoints.
        scratch: the folder for that, and for a theta1 that is a difference; a temporary one if None.
        trust_remote_code: let the checkpoints' own Python code run.
        workers: threads that compute replies on a CPU; as many as torch has if None. The replies do not depend on it.
    """

    def __init__(
        self,
        direction: Direction,
        sampling: Sampling,
        *,
        device: str | None = None,
        dtype: OutputDtype = "keep",
        low_memory: bool = False,
        scratch: Path | None = None,
        trust_remote_code: bool = False,
        workers: int | None = None,
    ) -> None:
        if not direction.is_alone:
            direction.paired()
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        self._direction = direction
        self._sampling = sampling
        usual = "cuda" if torch.cuda.is_available() else "cpu"
        self._place: Device = "auto" if device == "auto" else torch.device(device or usual)
        # Where prompts go; of a model that is spread, accelerate takes them on from there.
        self._device = torch.device(usual) if self._place == "auto" else self._place
        self._on_cpu = self._device.type == "cpu"
        self._workers = (workers or torch.get_num_threads()) if self._on_cpu else 1
        self._rows = _ROWS_ON_CPU if self._on_cpu else None
        self._packed: float | None = None
        self._dtype: OutputDtype = dtype
        self._low_memory = low_memory
        self._scratch = scratch
        self._trust_remote_code = trust_remote_code
        self._vocabulary = Vocabulary(direction.aligned, trust_remote_code)

    @cached_property
    def _live(self) -> LiveModel:
        """Loaded when the first reply is wanted: a finished study, or one with other settings, does without."""
        if self._direction.is_alone:
            return Still(self._direction, self._place, self._trust_remote_code, self._dtype)
        pair, size = self._direction, self._direction.initial.nbytes + self._direction.aligned.nbytes
        adapter = adapter_on_theta0(pair)
        if adapter is not None and importlib.util.find_spec("peft") is not None:
            logger.info("loading theta0 and the adapter on it")
            return Scaled(pair, adapter, self._place, self._trust_remote_code, self._dtype)
        if self._low_memory or not fits_in_memory(pair, self._place):
            logger.info("writing each theta(alpha) to %s and loading it from there", self._scratch or "the disk")
            return OnDisk(pair, self._place, self._trust_remote_code, self._scratch, self._dtype)
        logger.info("loading both checkpoints into memory, %.2f GB", size / 1e9)
        return InMemory(pair, self._place, self._trust_remote_code, self._scratch, self._dtype)

    @cached_property
    def settings(self) -> dict[str, Json]:
        return {
            "engine": "transformers/4",  # counts the arithmetics: a study is not continued with another
            "theta0": fingerprint(self._direction.initial),
            "theta1": fingerprint(self._direction.aligned),
            "dtype": self._dtype,
            "tokenizer and template": self._vocabulary.digest,
            **asdict(self._sampling),
        }

    @property
    def environment(self) -> dict[str, Json]:
        cpu = torch.backends.cpu.get_cpu_capability()
        device = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else cpu
        return {
            "llm-expo": llm_expo.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "threads": torch.get_num_threads(),
            "device": f"{self._device.type} {device}".strip(),
        }

    def encode(self, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
        return self._vocabulary.encode(prompts, self._sampling.max_tokens)

    @property
    def special_tokens(self) -> dict[int, str]:
        return self._vocabulary.special_tokens

    def move(self, alpha: float) -> None:
        self._model(alpha)

    def rest(self) -> None:
        if "_live" not in vars(self):
            return
        if self._on_cpu or self._place == "auto":
            del self._live
            self._packed = None
            gc.collect()
        else:
            self._live.rest()
            torch.cuda.empty_cache()

    def generate(
        self, alpha: float, batches: Iterable[Sequence[Request]], *, abandoned: Event | None = None
    ) -> Iterator[list[Reply]]:
        """See `Engine`. Ends with an EngineError soon after another thread has set `abandoned`."""
        model = self._model(alpha)
        # `generate` takes what is not set from the model's own configuration, a repetition penalty for one.
        model.generation_config = GenerationConfig()
        yield from self._at_work(
            batches,
            lambda part, abandoned: self._as_memory_allows(lambda some: self._decoded(model, some, abandoned), part),
            self._parts_to_make,
            abandoned,
        )

    def _at_work(
        self,
        batches: Iterable[Sequence[A]],
        compute: Callable[[Sequence[A], Event], list[B]],
        parted: Callable[[Sequence[A]], list[Part]],
        abandoned: Event | None = None,
    ) -> Iterator[list[B]]:
        """On a CPU by several workers with a thread each, unless a part wants more: they do more than one with several.

        No answer depends on how many workers there are.
        """
        threads = torch.get_num_threads()

        def ready(own: int) -> None:
            if self._on_cpu:
                torch.set_num_threads(own)

        try:
            yield from in_parts(
                batches, compute, parted=parted, workers=self._workers, ready=ready, abandoned=abandoned
            )
        finally:
            torch.set_num_threads(threads)

    def _model(self, alpha: float) -> PreTrainedModel:
        model = self._live.at(alpha)
        # Of an adapter only the scale changes.
        weights = 0.0 if isinstance(self._live, Scaled) else alpha
        if self._on_cpu and weights != self._packed:
            pack(model)
            self._packed = weights
        return model

    def _as_memory_allows(self, do: Callable[[Sequence[A]], list[B]], rows: Sequence[A]) -> list[B]:
        """As many rows at once as memory allows, which is found out by trying."""
        done: list[B] = []
        while len(done) < len(rows):
            some = rows[len(done) :][: self._rows]
            try:
                done += do(some)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                if len(some) == 1:
                    raise EngineError(
                        "memory does not suffice for a single reply; lower --max-tokens, or leave long prompts out"
                    ) from None
                self._rows = min(self._rows or len(some), len(some) // 2)
                logger.warning("out of memory at %d replies at once: going on with %d", len(some), self._rows)
        return done

    def _parts_to_make(self, batch: Sequence[Request]) -> list[Part]:
        sizes = [len(request.tokens) for request in batch]
        if not self._on_cpu:
            return cut(sizes, self._rows)
        if len(batch) <= _FEW_ON_CPU:
            return cut(sizes, self._rows, threads=_THREADS_OF_FEW)
        return cut(sizes, self._rows, fewest=2)

    def _decoded(self, model: PreTrainedModel, requests: Sequence[Request], abandoned: Event) -> list[Reply]:
        keys = [stream(self._sampling.seed, request.prompt, request.noise) for request in requests]
        streams = torch.tensor(keys, device=self._device)

        def draw(logits: Tensor, replies: Tensor, rows: Tensor) -> Tensor:
            if abandoned.is_set():
                raise EngineError("abandoned")  # nobody hears it
            return sample(logits, replies, streams[rows], self._sampling)

        prompts = [request.tokens for request in requests]
        rows = decode(model, prompts, draw, self._vocabulary.stops, self._sampling.max_tokens)
        return [self._vocabulary.reply(row) for row in rows]

    def log_probabilities(self, alpha: float, batches: Iterable[Sequence[Text]]) -> Iterator[list[float]]:
        model = self._model(alpha)
        yield from self._at_work(
            batches, lambda part, _: self._as_memory_allows(partial(self._read, model), part), self._parts_to_read
        )

    def _parts_to_read(self, batch: Sequence[Text]) -> list[Part]:
        longest = max(len(reply) for _, reply in batch)
        most = max(1, _LOGIT_ELEMENTS // (longest * self._vocabulary.config.vocab_size))
        sizes = [len(prompt) + len(reply) for prompt, reply in batch]
        return cut(sizes, min(most, _READ_ON_CPU), fewest=2) if self._on_cpu else cut(sizes, most)

    def _read(self, model: PreTrainedModel, part: Sequence[Text]) -> list[float]:
        inputs, mask = pad_left([[*prompt, *reply] for prompt, reply in part], self._vocabulary.stops[0], self._device)
        positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)
        # The head is a good part of a small model: no logits for the prompts.
        spares = "logits_to_keep" in inspect.signature(model.forward).parameters
        wanted = {"logits_to_keep": max(len(reply) for _, reply in part) + 1} if spares else {}
        values = []
        with torch.inference_mode():
            logits = model(
                input_ids=inputs, attention_mask=mask, position_ids=positions, use_cache=False, **wanted
            ).logits
            for row, (_, reply) in enumerate(part):
                n = len(reply)
                spoken = logits[row, -n - 1 : -1].float().log_softmax(dim=-1)
                values.append(float(spoken.gather(1, inputs[row, -n:, None]).mean()))
        return values


def _is_out_of_memory(error: RuntimeError) -> bool:
    """A CPU's allocator has no error of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
