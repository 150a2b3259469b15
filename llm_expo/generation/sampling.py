"""From logits to the next token: penalties, temperature, top-k, top-p, and a draw with keyed noise.

Knows nothing of models: it maps a (batch, vocabulary) matrix to a (batch,) vector. Penalties are vLLM's, the filters
are those of transformers and vLLM (which agree), in vLLM's order.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_expo.errors import EngineError
from llm_expo.generation.noise import gumbel

if TYPE_CHECKING:
    from torch import Tensor


_GREEDY = 1e-5
"""Below this temperature vLLM takes the likeliest token, and so do we."""


@dataclass(frozen=True)
class Sampling:
    """How replies are drawn. The defaults are the paper's (section 3.1).

    temperature 0 is greedy; top_k 0 and top_p 1 switch the filters off; `max_tokens` counts the tokens of a reply.
    """

    temperature: float = 0.7
    top_k: int = 50
    top_p: float = 0.9
    presence_penalty: float = 0.1
    frequency_penalty: float = 0.1
    seed: int = 42
    max_tokens: int = 2048

    def __post_init__(self) -> None:
        for name, holds, wanted in (
            ("temperature", 0 <= self.temperature < math.inf, "at least 0"),
            ("top_k", self.top_k >= 0, "at least 0"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("presence_penalty", abs(self.presence_penalty) <= 2, "between -2 and 2"),
            ("frequency_penalty", abs(self.frequency_penalty) <= 2, "between -2 and 2"),
            ("max_tokens", self.max_tokens >= 1, "at least 1"),
        ):
            if not holds:
                raise EngineError(f"{name} is {getattr(self, name)}; it has to be {wanted}")


def sample(logits: "Tensor", replies: "Tensor", streams: "Tensor", sampling: Sampling) -> "Tensor":
    """Draw the next token of each row: int64 (batch,).

    Args:
        logits: float32 (batch, vocabulary); changed in place.
        replies: int64 (batch, tokens so far), what each row has replied so far, without its prompt.
        streams: int64 (batch,), the rows' noise streams.
    """
    _penalise(logits, replies, sampling)
    if sampling.temperature < _GREEDY:
        return logits.argmax(dim=-1)
    scores, tokens = _candidates(logits, sampling)
    scores = scores / sampling.temperature
    if sampling.top_p < 1:
        # transformers and vLLM sum from the least likely up and drop what stays within 1 - top_p; from the most
        # likely down that is: keep a token while those before it hold less than top_p.
        probabilities = scores.softmax(dim=-1)
        before = probabilities.cumsum(dim=-1) - probabilities
        kept = before < sampling.top_p
        kept[:, 0] = True
        scores = scores.masked_fill(~kept, -float("inf"))
    noisy = scores.double() + gumbel(streams, replies.shape[1], tokens)
    winner = noisy.argmax(dim=-1, keepdim=True)
    return tokens.gather(1, winner).squeeze(1)


def _penalise(logits: "Tensor", replies: "Tensor", sampling: Sampling) -> None:
    """vLLM's definition: for the reply's own tokens, not the prompt's; once if present, once for each occurrence."""

    if sampling.presence_penalty:
        present = logits.gather(1, replies) - sampling.presence_penalty
        logits.scatter_(1, replies, present)
    if sampling.frequency_penalty:
        each = logits.new_full(replies.shape, -sampling.frequency_penalty)
        logits.scatter_add_(1, replies, each)


def _candidates(logits: "Tensor", sampling: Sampling) -> "tuple[Tensor, Tensor]":
    """The logits that top-k leaves and their token ids; in descending order if there is a filter."""
    import torch

    k, vocabulary = sampling.top_k, logits.shape[-1]
    if k == 0 or k >= vocabulary:
        if sampling.top_p < 1:
            return logits.sort(dim=-1, descending=True)
        return logits, torch.arange(vocabulary, device=logits.device).expand_as(logits)
    scores, tokens = logits.topk(k)
    threshold = scores[:, -1:]
    width = int((logits >= threshold).sum(dim=-1).max())
    if width > k:  # ties with the k-th all stay; half-precision logits tie often
        scores, tokens = logits.topk(width)
        scores = scores.masked_fill(scores < threshold, -float("inf"))
    return scores, tokens
