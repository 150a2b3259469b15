"""The losses that TRL lacks, or computes in another form than the published one: pure functions of log-probabilities.

They know no model, no trainer and no batch: each returns a loss per pair, to be averaged by whoever calls it. Where a
loss compares implicit rewards, a function beside it returns those of the chosen and of the rejected replies, for logs.
docs/training.md says in what each differs from TRL's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the facts about algorithms, which name these functions, are read without torch
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class PairLogProbs:
    """What the losses see of some pairs of replies, chosen and rejected: tensors of shape [pairs], float32.

    Log-probabilities are in nats, given the prompt and summed over the reply's tokens. In the equations, lw and ll are
    the policy's for chosen (the winner) and rejected (the loser), rw and rl theta0's, nw and nl the numbers of tokens.
    """

    chosen: "Tensor"
    rejected: "Tensor"
    reference_chosen: "Tensor | None"  # under theta0; None for a loss that needs no reference
    reference_rejected: "Tensor | None"
    chosen_tokens: "Tensor"  # at least 1
    rejected_tokens: "Tensor"


Loss = Callable[..., "Tensor"]
"""loss(pairs: PairLogProbs, **coefficients: float) -> tensor of shape [pairs]"""

Rewards = Callable[..., "tuple[Tensor, Tensor]"]
"""rewards(pairs: PairLogProbs, **coefficients: float) -> two tensors of shape [pairs]: chosen, rejected"""


def ipo(pairs: PairLogProbs, *, tau: float) -> "Tensor":
    """(h - 1 / (2 tau))^2, with h = (lw - rw) - (ll - rl).

    IPO, arXiv 2310.12036, Eq. 17.
    """
    return (_log_ratio(pairs) - 1 / (2 * tau)) ** 2


def ipo_rewards(pairs: PairLogProbs, *, tau: float) -> "tuple[Tensor, Tensor]":
    """tau (l - r): with it the loss is (margin / tau - 1 / (2 tau))^2."""
    chosen, rejected = _log_ratios(pairs)
    return tau * chosen, tau * rejected


def slic_hf(pairs: PairLogProbs, *, delta: float, sft_weight: float) -> "Tensor":
    """max(0, delta - lw + ll) - lambda lw, with lambda = `sft_weight`.

    SLiC-HF, arXiv 2305.10425, Eq. 4, with the chosen reply as the target of the second term, as SimPO (arXiv
    2405.14734, Table 3) compares it.
    """
    return (delta - pairs.chosen + pairs.rejected).clamp(min=0) - sft_weight * pairs.chosen


def rrhf(pairs: PairLogProbs, *, sft_weight: float) -> "Tensor":
    """max(0, ll / nl - lw / nw) - lambda lw, with lambda = `sft_weight`.

    RRHF, arXiv 2304.05302, Eqs. 1 to 5, for two replies a prompt. The paper has no lambda, which is 1; SimPO (arXiv
    2405.14734, Table 3) has one.
    """
    chosen, rejected = _per_token(pairs)
    return (rejected - chosen).clamp(min=0) - sft_weight * pairs.chosen


def cpo(pairs: PairLogProbs, *, beta: float, sft_weight: float) -> "Tensor":
    """-log sigmoid(beta lw - beta ll) - lambda lw, with lambda = `sft_weight`.

    CPO, arXiv 2401.08417, section 3. The paper has no lambda, which is 1; SimPO (arXiv 2405.14734, Table 3) has one.
    """
    from torch.nn.functional import logsigmoid

    return -logsigmoid(beta * (pairs.chosen - pairs.rejected)) - sft_weight * pairs.chosen


def cpo_rewards(pairs: PairLogProbs, *, beta: float, **_: float) -> "tuple[Tensor, Tensor]":
    """beta l: the loss's first term is -log sigmoid(margin)."""
    return beta * pairs.chosen, beta * pairs.rejected


def r_dpo(pairs: PairLogProbs, *, beta: float, length_penalty: float) -> "Tensor":
    """-log sigmoid(beta h + alpha (nw - nl)), with h = (lw - rw) - (ll - rl) and alpha = `length_penalty`.

    R-DPO, arXiv 2403.19159, Eq. 9. It is what DPO becomes when the reward is r - alpha n: the best policy then has
    r = beta log(pi / pi0) + alpha n + const. So the sign is plus: a chosen reply that is longer anyway teaches less.
    """
    from torch.nn.functional import logsigmoid

    return -logsigmoid(beta * _log_ratio(pairs) + length_penalty * (pairs.chosen_tokens - pairs.rejected_tokens))


def r_dpo_rewards(pairs: PairLogProbs, *, beta: float, length_penalty: float) -> "tuple[Tensor, Tensor]":
    """beta (l - r) + alpha n, what `r_dpo` compares: the loss is -log sigmoid(margin)."""
    chosen, rejected = _log_ratios(pairs)
    return (
        beta * chosen + length_penalty * pairs.chosen_tokens,
        beta * rejected + length_penalty * pairs.rejected_tokens,
    )


def simpo(pairs: PairLogProbs, *, beta: float, gamma: float) -> "Tensor":
    """-log sigmoid(beta lw / nw - beta ll / nl - gamma).

    SimPO, arXiv 2405.14734, Eq. 6.
    """
    from torch.nn.functional import logsigmoid

    chosen, rejected = _per_token(pairs)
    return -logsigmoid(beta * (chosen - rejected) - gamma)


def simpo_rewards(pairs: PairLogProbs, *, beta: float, **_: float) -> "tuple[Tensor, Tensor]":
    """beta l / n, SimPO's Eq. 4: the loss is -log sigmoid(margin - gamma)."""
    chosen, rejected = _per_token(pairs)
    return beta * chosen, beta * rejected


def orpo(pairs: PairLogProbs, *, odds_ratio_weight: float) -> "Tensor":
    """-log P(w) - lambda log sigmoid(log odds P(w) - log odds P(l)), with lambda = `odds_ratio_weight`.

    log P = l / n, the mean over the reply's tokens, and odds P = P / (1 - P). ORPO, arXiv 2403.07691, Eqs. 3 to 7.
    """
    from torch.nn.functional import logsigmoid

    chosen, rejected = _per_token(pairs)
    return -chosen - odds_ratio_weight * logsigmoid(_log_odds(chosen) - _log_odds(rejected))


def _log_ratio(pairs: PairLogProbs) -> "Tensor":
    """How much farther the policy is from theta0 in log-probability on chosen than on rejected: IPO's h."""
    chosen, rejected = _log_ratios(pairs)
    return chosen - rejected


def _log_ratios(pairs: PairLogProbs) -> "tuple[Tensor, Tensor]":
    if pairs.reference_chosen is None or pairs.reference_rejected is None:
        raise ValueError("this loss needs the log-probabilities under theta0")
    return pairs.chosen - pairs.reference_chosen, pairs.rejected - pairs.reference_rejected


def _per_token(pairs: PairLogProbs) -> "tuple[Tensor, Tensor]":
    return pairs.chosen / pairs.chosen_tokens, pairs.rejected / pairs.rejected_tokens


def _log_odds(log_p: "Tensor") -> "Tensor":
    """log(p / (1 - p)), of log p <= 0.

    The usual second branch for small p, log1p(-exp), is left out: there both are 0 beside log p. A p of 1 has no odds:
    whatever is above 1 - 1.2e-7 counts as that, and gets no gradient from here.
    """
    import torch

    log_p = log_p.clamp(max=-torch.finfo(torch.float32).eps)
    return log_p - torch.log(-torch.expm1(log_p))
