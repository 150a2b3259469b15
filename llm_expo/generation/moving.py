"""A loaded model at any alpha, with the bits of what `apply` writes.

`Still` is one model, which stays where it is; `Scaled` is for a theta1 that is an adapter on theta0. Of the other two,
`InMemory` holds theta0 and theta1 on the host and overwrites the parameters of one live model; `OnDisk` writes
theta(alpha) with the streaming writer and loads that. Parameters are matched by their names in the loaded models, not
in the files: transformers renames and fuses tensors while it loads, alike on both sides.
"""

import gc
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, Literal, Protocol

import psutil
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from llm_expo.checkpoints import Checkpoint
from llm_expo.checkpoints.adapter import Adapter
from llm_expo.checkpoints.header import BITS
from llm_expo.errors import EngineError, ExpoError, listed
from llm_expo.weights import Direction, Extrapolation, OutputDtype, plan, write
from llm_expo.weights.memory import DTYPES, Span, extrapolate, move, spans

Device = torch.device | Literal["auto"]
"""Where the live model is; "auto" spreads its layers over all GPUs that there are, by accelerate."""


class LiveModel(Protocol):
    """One loaded model, wherever on the line it is asked to be."""

    def at(self, alpha: float) -> PreTrainedModel:
        """The model at theta(alpha), in evaluation mode. The one handed out before is no longer at its alpha."""

    def rest(self) -> None:
        """Leave the device until the next call; on a CPU there is nowhere to go."""


class InMemory:
    """theta0 and theta1 in host memory, one live model on the device; a move is one pass of the kernel."""

    def __init__(
        self,
        direction: Direction,
        device: Device,
        trust_remote_code: bool,
        scratch: Path | None = None,
        dtype: OutputDtype = "keep",
    ) -> None:
        """`fits_in_memory` has to hold, at the least as far as it is about types."""
        self._initial_dtype, self._aligned_dtype = _file_dtype(direction.initial), _file_dtype(direction.aligned)
        self._dtype = self._aligned_dtype if dtype == "keep" else getattr(torch, dtype)
        cpu = torch.device("cpu")
        with folder_at(0.0, direction, scratch) as aligned:
            self._live = load(aligned, device, trust_remote_code, "auto" if dtype == "keep" else self._dtype)
            self._aligned = _by_name(load(aligned, cpu, trust_remote_code, self._aligned_dtype))
        self._initial = _by_name(load(direction.initial.path, cpu, trust_remote_code, self._initial_dtype))
        live = _by_name(self._live)
        for name in sorted(live.keys() | self._initial.keys() | self._aligned.keys()):
            shapes = [side[name].shape if name in side else None for side in (self._initial, self._aligned, live)]
            if len(set(shapes)) > 1:
                raise EngineError(
                    f"{name}: as transformers loads it, is {_shown(shapes[0])} in theta0 and {_shown(shapes[1])} in "
                    f"theta1; one of them may have tied embeddings; --low-memory does without matching them"
                )
        # In another type, modules that load in float32 hold more than a file of that type would.
        self._alpha: float | None = 0.0 if self._dtype == self._aligned_dtype else None
        self._device = device

    def rest(self) -> None:
        _to(self._live, torch.device("cpu"))

    def at(self, alpha: float) -> PreTrainedModel:
        _to(self._live, self._device)
        if alpha == self._alpha:
            return self._live
        self._alpha = None  # should the move be interrupted, no alpha is where the weights are
        try:
            move(self._spans, alpha)
            self._move_others(alpha)
        except ExpoError as error:
            raise EngineError(str(error)) from None
        self._alpha = alpha
        return self._live

    @cached_property
    def _spans(self) -> list[Span]:
        """Of all that can be overwritten where it is; built once, for as long as the live model stays in its place."""
        return [
            Span(name, *span)
            for name, live in _by_name(self._live).items()
            if self._in_place(name, live)
            for span in spans(self._initial[name], self._aligned[name], live)
        ]

    @cached_property
    def _others(self) -> dict[str, Tensor]:
        return {name: live for name, live in _by_name(self._live).items() if not self._in_place(name, live)}

    def _in_place(self, name: str, live: Tensor) -> bool:
        types = (self._initial_dtype, self._aligned_dtype, self._dtype)
        sides = (self._initial[name], self._aligned[name], live)
        return all(
            side.device.type == "cpu" and side.dtype == dtype and side.is_contiguous() and side.numel()
            for side, dtype in zip(sides, types, strict=True)
        )

    @torch.no_grad()
    def _move_others(self, alpha: float) -> None:
        for name, live in self._others.items():
            if live.is_floating_point():
                # Some modules load in float32 whatever the files hold. Back in the files' types (exact) the kernel
                # rounds as it does when it writes a file.
                initial, aligned = (
                    self._initial[name].to(self._initial_dtype),
                    self._aligned[name].to(self._aligned_dtype),
                )
                try:
                    live.copy_(extrapolate(initial, aligned, alpha, out=torch.empty_like(aligned, dtype=self._dtype)))
                except ExpoError as error:
                    raise ExpoError(f"{name}: {error}") from None


class Still:
    """One model that does not move (`Direction.alone`)."""

    def __init__(
        self, direction: Direction, device: Device, trust_remote_code: bool, dtype: OutputDtype = "keep"
    ) -> None:
        kept = "auto" if dtype == "keep" else getattr(torch, dtype)
        self._live = load(direction.aligned.path, device, trust_remote_code, kept)
        self._device = device

    def rest(self) -> None:
        _to(self._live, torch.device("cpu"))

    def at(self, alpha: float) -> PreTrainedModel:
        if alpha != 0:
            raise EngineError(f"alpha {alpha}: one model alone has no direction to go in")
        return _to(self._live, self._device)


class Scaled:
    """theta1's adapter on theta0, as PEFT runs it: alpha is a scale. What `apply` writes is that adapter, scaled."""

    def __init__(
        self,
        direction: Direction,
        adapter: Adapter,
        device: Device,
        trust_remote_code: bool,
        dtype: OutputDtype = "keep",
    ) -> None:
        from peft import PeftModel
        from peft.tuners.lora import LoraLayer

        kept = "auto" if dtype == "keep" else getattr(torch, dtype)
        base = load(direction.initial.path, torch.device("cpu"), trust_remote_code, kept)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of peft's own calls
            adapted: Any = PeftModel.from_pretrained(base, str(adapter.path))
        # Without PEFT's own wrapper: the model itself, in which some layers are now LoRA's.
        self._live = _to(adapted.eval().requires_grad_(False).get_base_model(), device)
        self._device = device
        self._layers = [layer for layer in self._live.modules() if isinstance(layer, LoraLayer)]

    def rest(self) -> None:
        _to(self._live, torch.device("cpu"))

    def at(self, alpha: float) -> PreTrainedModel:
        for layer in self._layers:
            layer.set_scale("default", 1 + alpha)
        return _to(self._live, self._device)


class OnDisk:
    """theta(alpha) written to a scratch folder and loaded from there: slow, and as large as one model in memory."""

    def __init__(
        self,
        direction: Direction,
        device: Device,
        trust_remote_code: bool,
        scratch: Path | None = None,
        dtype: OutputDtype = "keep",
    ) -> None:
        self._direction = direction
        self._dtype = dtype
        self._device = device
        self._trust_remote_code = trust_remote_code
        self._scratch = scratch
        self._live: PreTrainedModel | None = None
        self._alpha: float | None = None

    def rest(self) -> None:
        self._live = None
        gc.collect()

    def at(self, alpha: float) -> PreTrainedModel:
        if self._live is not None and alpha == self._alpha:
            return self._live
        self._live = None
        gc.collect()  # the old model has to be gone before the new one comes
        with folder_at(alpha, self._direction, self._scratch, self._dtype) as folder:
            self._live = load(folder, self._device, self._trust_remote_code)
        self._alpha = alpha
        return self._live


@contextmanager
def folder_at(alpha: float, direction: Direction, scratch: Path | None, dtype: OutputDtype = "keep") -> Iterator[Path]:
    """A folder that transformers can load theta(alpha) from, while it is wanted: theta1's own, or one in `scratch`.

    Without `scratch`, in a temporary folder.
    """
    if alpha == 0 and direction.aligned.is_whole and dtype == "keep":
        yield direction.aligned.path
        return
    with in_scratch(plan(direction, alpha, dtype=dtype), scratch) as folder:
        yield folder


@contextmanager
def in_scratch(extrapolation: Extrapolation, scratch: Path | None) -> Iterator[Path]:
    """What `apply` would write, in a folder in `scratch` or a temporary one, while it is wanted."""
    scratch = scratch or Path(tempfile.mkdtemp(prefix="llm-expo-"))
    # One name, so that a killed run's leftover is cleared by the next.
    folder = scratch / "theta"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        write(extrapolation, folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # where nothing else lies in it
            scratch.rmdir()


def load(
    path: Path, device: Device, trust_remote_code: bool, dtype: torch.dtype | str | None = "auto"
) -> PreTrainedModel:
    """The causal language model of a folder, whole or not at all: transformers fills in missing weights at random."""
    loaded: Any  # the pair of model and loading report that `output_loading_info` makes of it, unknown to its type
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            device_map="auto" if device == "auto" else None,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, ImportError, KeyError) as error:
        raise EngineError(f"{path}: transformers cannot load it: {error}") from None
    model, info = loaded
    incomplete = sorted([*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])])
    if incomplete:
        named = listed(incomplete, ", ", most=6)
        raise EngineError(f"{path}: the model needs weights that the files do not hold: {named}")
    return _to(model.eval().requires_grad_(False), device)


def _to(model: Any, device: Device) -> PreTrainedModel:
    try:
        moved: PreTrainedModel = model if device == "auto" else model.to(device)
    except torch.OutOfMemoryError:
        raise EngineError(
            f"the model does not fit on {device} beside what is there; take another --device, or --take-turns if "
            f"that is the reward model"
        ) from None
    return moved


def on_cpu(device: Device) -> bool:
    """Whether nothing is computed on a GPU."""
    return not torch.cuda.is_available() if device == "auto" else device.type == "cpu"


def fits_in_memory(direction: Direction, device: Device) -> bool:
    """Whether `InMemory` may be used: no adapters, one float type a side, memory for all copies and a tenth more."""
    initial, aligned = direction.initial, direction.aligned
    # An adapter's merged weights are rounded to the base's type when they are written, so that one would move from
    # another theta1 than `apply` does. A difference's are float32, and written exactly.
    if not initial.is_whole or aligned.adapter is not None:
        return False
    if any(_file_dtype(side) is None for side in (initial, aligned)):
        return False
    # On a CPU the live model, and its linear layers once more (`packing`).
    copies = [initial, aligned] + ([aligned, aligned] if on_cpu(device) else [])
    needed = sum(_loaded_size(side) for side in copies)
    return 1.1 * needed < _available_memory()


def _available_memory() -> float:
    """Bytes that may still be taken: of the machine or, in a container, of its control group."""
    available = float(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    try:
        limit = float((group / "memory.max").read_text())  # "max" where there is none
        used = float((group / "memory.current").read_text())
        # The page cache counts as used there, and is given back on demand.
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        used -= float(statistics["inactive_file"])
    except (OSError, ValueError, KeyError):
        return available
    return min(available, limit - used)


def _loaded_size(checkpoint: Checkpoint) -> int:
    """Bytes of all tensors."""
    return sum(prod(tensor.shape) * BITS[tensor.dtype] // 8 for tensor in checkpoint.tensors.values())


def _file_dtype(checkpoint: Checkpoint) -> torch.dtype | None:
    """The one float type of a checkpoint's tensors, or None where there are several."""
    dtypes = {tensor.dtype for tensor in checkpoint.tensors.values() if tensor.is_float}
    return DTYPES[dtypes.pop()] if len(dtypes) == 1 else None


def _shown(shape: torch.Size | None) -> str:
    return "absent" if shape is None else f"of shape {list(shape)}"


def _by_name(model: PreTrainedModel) -> dict[str, Tensor]:
    """Everything that the files decide: parameters and persistent buffers, tied ones once."""
    persistent = model.state_dict(keep_vars=True).keys()
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor.data for name, tensor in named.items() if name in persistent}
