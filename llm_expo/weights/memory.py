"""The kernel for tensors in memory: two tensors, or two whole models as modules or state dicts.

What is written to files and what is set in a live model are the same bits, since it is the same arithmetic. Knows
nothing of files. Needs torch.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch

from llm_expo.errors import ExpoError, MismatchError, listed
from llm_expo.weights.kernel import step

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_CODES = {dtype: code for code, dtype in DTYPES.items()}
# Elements that a thread takes at a time.
_SPAN = 1 << 22

Model = torch.nn.Module | Mapping[str, torch.Tensor]


def extrapolate_model(initial: Model, aligned: Model, alpha: float) -> dict[str, torch.Tensor]:
    """theta1 + alpha * (theta1 - theta0) as a state dict, for `load_state_dict` or `save_pretrained(state_dict=...)`.

    initial, aligned: theta0 and theta1, with the same names and shapes; neither is changed.
    Float tensors are moved, all others are theta1's; what is tied (two names of one memory) is calculated once.

    Raises MismatchError, which names every name or shape that does not match, and ExpoError as `extrapolate` does.
    """
    before, after = _state(initial), _state(aligned)
    differing = [
        f"{name}: {_shape(before.get(name))} in theta0, {_shape(after.get(name))} in theta1"
        for name in sorted({*before, *after})
        if name not in before or name not in after or before[name].shape != after[name].shape
    ]
    if differing:
        raise MismatchError(f"theta0 and theta1 do not match in {len(differing)} tensors: {listed(differing)}")
    done: dict[tuple[object, ...], torch.Tensor] = {}
    found = {}
    for name, tensor in after.items():
        place = tensor.data_ptr(), before[name].data_ptr(), tensor.shape, tensor.stride(), tensor.dtype
        if not tensor.is_floating_point() or not tensor.numel():
            found[name] = tensor.clone()
        elif place in done:
            found[name] = done[place]
        else:
            try:
                found[name] = done[place] = extrapolate(before[name], tensor, alpha)
            except ExpoError as error:
                raise ExpoError(f"{name}: {error}") from None
    return found


@torch.no_grad()
def extrapolate(
    initial: torch.Tensor, aligned: torch.Tensor, alpha: float, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Write theta1 + alpha * (theta1 - theta0) to `out` and return it.

    initial, aligned: theta0 and theta1, float tensors of one shape on one device.
    alpha:            any finite float32. 0 copies theta1 and -1 copies theta0, bit for bit where out's dtype is theirs.
    out:              of the same shape; a new tensor like `aligned` if None. It may be `aligned` or `initial` itself,
                      but must not overlap them in any other way.

    Arithmetic is float32 (float64 where one of the tensors is), with one rounding, to out's dtype. On a GPU it is
    torch's, which may differ from the CPU's in the last bit of the float32 result.
    Raises ValueError for shapes that differ and for dtypes that are not floating-point numbers of 16 bits or more, and
    ExpoError where an input or the result is NaN or infinite.
    """
    if out is None:
        out = torch.empty_like(aligned)
    if not initial.shape == aligned.shape == out.shape:
        # Broadcasting would make a plausible tensor of a wrong pair.
        raise ValueError(f"shapes differ: {list(initial.shape)}, {list(aligned.shape)}, out {list(out.shape)}")
    if strange := {initial.dtype, aligned.dtype, out.dtype} - _CODES.keys():
        raise ValueError(f"cannot be extrapolated: {', '.join(sorted(map(str, strange)))}")
    # Copied, not computed: 0 * x is no identity for NaN, infinity and -0.0.
    if alpha in (0, -1):
        return out.copy_(initial if alpha else aligned)
    if {initial.device.type, aligned.device.type, out.device.type} != {"cpu"}:
        return _extrapolate_elsewhere(initial, aligned, alpha, out)
    target = out if out.is_contiguous() else torch.empty_like(out, memory_format=torch.contiguous_format)
    move([Span("", *span) for span in spans(initial.contiguous(), aligned.contiguous(), target)], alpha)
    return out if target is out else out.copy_(target)


class Span(NamedTuple):
    """A piece of a tensor, `name`, in theta0, theta1 and where theta(alpha) goes, from flat index `start` on.

    Holds the memory itself, so that moving it again costs nothing but the arithmetic.
    """

    name: str
    initial: tuple[memoryview, str]  # bytes and safetensors dtype; so the others
    aligned: tuple[memoryview, str]
    out: tuple[memoryview, str]
    start: int


def spans(initial: torch.Tensor, aligned: torch.Tensor, out: torch.Tensor) -> Iterator[tuple[Any, ...]]:
    """The fields of the spans of contiguous tensors on a CPU, but for the name."""
    sides = [side.view(-1) for side in (initial, aligned, out)]
    codes = [_CODES[side.dtype] for side in sides]
    for start in range(0, out.numel(), _SPAN):
        pieces = (_bytes(side[start : start + _SPAN]) for side in sides)
        yield (*zip(pieces, codes, strict=True), start)


def move(pieces: Sequence[Span], alpha: float) -> None:
    """Calculate theta(alpha) in all of `pieces`, on as many threads as there are cores.

    Raises ExpoError for NaN or infinity in an input or in the result.
    """
    threads = min(len(pieces), os.cpu_count() or 1)
    if threads <= 1:
        _move(pieces, alpha)
        return
    # The largest first and in turn, so that all threads end at about the same time.
    ordered = sorted(pieces, key=lambda piece: -len(piece.out[0]))
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(lambda thread: _move(ordered[thread::threads], alpha), range(threads)):
            pass


def _move(pieces: Sequence[Span], alpha: float) -> None:
    for name, initial, aligned, out, start in pieces:
        _, bad = step(*initial, *aligned, *out, alpha, tally=False)
        if bad is not None:
            values = f"{_value(*initial, bad):g} in theta0, {_value(*aligned, bad):g} in theta1"
            where = f"{name}: " if name else ""
            raise ExpoError(f"{where}NaN or infinity at flat index {start + bad} with alpha {alpha:g}: {values}")


def _value(piece: memoryview, code: str, index: int) -> float:
    return float(torch.frombuffer(piece, dtype=DTYPES[code])[index])


def _extrapolate_elsewhere(
    initial: torch.Tensor, aligned: torch.Tensor, alpha: float, out: torch.Tensor
) -> torch.Tensor:
    wide = torch.float64 if torch.float64 in (initial.dtype, aligned.dtype, out.dtype) else torch.float32
    before, after = initial.to(wide), aligned.to(wide)
    start, end = (after, before) if alpha > 0 else (before, after)  # as in _kernel_block.h, for the sake of -0.0
    out.copy_(torch.add(after, end - start, alpha=-abs(alpha)))
    if not bool(out.isfinite().all()):
        raise ExpoError(f"NaN or infinity with alpha {alpha:g}, in theta0, in theta1 or in the result")
    return out


def _bytes(flat: torch.Tensor) -> memoryview:
    return memoryview(flat.view(torch.uint8).numpy().data)


def _state(model: Model) -> dict[str, torch.Tensor]:
    named = model.state_dict() if isinstance(model, torch.nn.Module) else model
    return {name: tensor.detach() for name, tensor in named.items()}


def _shape(tensor: torch.Tensor | None) -> str:
    return "absent" if tensor is None else f"shape {list(tensor.shape)}"
