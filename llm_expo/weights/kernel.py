"""The one kernel: theta(alpha) = theta1 + alpha * (theta1 - theta0), for tensors in memory.

ExPO, arXiv 2404.16792, eq. 1. Files are streamed through it chunk by chunk, and live models are moved by it; that the
two agree bit for bit rests on its results being independent of chunking, stride and alignment
(tests/weights/test_kernel.py holds torch to that, on the CPU). Knows nothing of names, files or statistics.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@torch.no_grad()
def extrapolate(
    initial: torch.Tensor, aligned: torch.Tensor, alpha: float, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Write theta1 + alpha * (theta1 - theta0) to `out` and return it.

    initial, aligned: theta0 and theta1, float tensors of one shape on one device.
    alpha:            any finite float32. 0 copies theta1 and -1 copies theta0, bit for bit where out's dtype is theirs.
    out:              of the same shape; a new tensor like `aligned` if None. It may be `aligned` or `initial` itself,
                      but must not overlap them in any other way.

    Arithmetic is float32 (float64 where one of the tensors is), with one rounding, to out's dtype.
    Raises ValueError for shapes that differ and for dtypes that are not floating-point numbers of 16 bits or more.
    """
    if out is None:
        out = torch.empty_like(aligned)
    if not initial.shape == aligned.shape == out.shape:
        # Broadcasting would make a plausible tensor of a wrong pair.
        raise ValueError(f"shapes differ: {list(initial.shape)}, {list(aligned.shape)}, out {list(out.shape)}")
    dtypes = {initial.dtype, aligned.dtype, out.dtype}
    if not dtypes <= _FLOATS:
        raise ValueError(f"cannot be extrapolated: {', '.join(sorted(str(dtype) for dtype in dtypes - _FLOATS))}")
    # Copied, not computed: 0 * x is no identity for NaN, infinity and -0.0.
    if alpha == 0:
        return out.copy_(aligned)
    if alpha == -1:
        return out.copy_(initial)
    if len(dtypes) == 1:
        # For 16-bit types torch.lerp calculates in float32 and rounds once, in one fused pass.
        return _lerp(initial, aligned, alpha, out)
    wide = arithmetic_dtype(initial, aligned, out)
    return out.copy_(_lerp(initial.to(wide), aligned.to(wide), alpha, None))


_FLOATS = {torch.float64, torch.float32, torch.float16, torch.bfloat16}


def _lerp(initial: torch.Tensor, aligned: torch.Tensor, alpha: float, out: torch.Tensor | None) -> torch.Tensor:
    # torch.lerp(start, end, w) is start + w * (end - start) for |w| < 0.5, else end - (1 - w) * (end - start). These
    # two calls have it begin at the nearer end, so that no large terms cancel.
    if abs(alpha) < 0.5:
        return torch.lerp(aligned, initial, -alpha, out=out)
    return torch.lerp(initial, aligned, 1 + alpha, out=out)


@contextmanager
def one_thread() -> Iterator[None]:
    """Within, torch calculates on the calling thread alone.

    For streaming: a chunk is a fraction of a millisecond's work. A team of threads gains little in it, and on a busy
    machine loses everything (measured: 20 times slower), since after every call it waits, spinning, for its slowest
    member. Nor do sums depend on the number of cores this way.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def arithmetic_dtype(*tensors: torch.Tensor) -> torch.dtype:
    """The dtype in which these are calculated with: float64 where one of them is, else float32."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def first_not_finite(tensor: torch.Tensor) -> int | None:
    """Index of the first NaN or infinity in the flattened tensor, or None. Cheap where there is none."""
    if tensor.numel() == 0:
        return None
    # One pass without a temporary: NaN comes through minimum and maximum.
    lowest, highest = torch.aminmax(tensor)
    if math.isfinite(lowest.item()) and math.isfinite(highest.item()):
        return None
    return int(tensor.isfinite().logical_not().flatten().nonzero()[0])
