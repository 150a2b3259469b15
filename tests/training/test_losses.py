"""The losses against numbers worked out by hand, at extremes, and against TRL wherever it has the same form."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor, tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from llm_expo.testing import tiny_pair
from llm_expo.training import losses
from llm_expo.training.algorithms import ALGORITHMS
from llm_expo.training.losses import PairLogProbs

LN2, LN_1P25, LN_1_PLUS_E_MINUS_1 = 0.693147181, 0.223143551, 0.313261688
OURS = [each for each in ALGORITHMS.values() if each.loss]


def one_pair(lw: float, ll: float, rw: float = 0, rl: float = 0, nw: float = 1, nl: float = 1) -> PairLogProbs:
    return PairLogProbs(*(tensor([float(each)]) for each in (lw, ll, rw, rl, nw, nl)))


PAIR = one_pair(lw=-12, ll=-20, rw=-13, rl=-18, nw=4, nl=5)  # so h = (-12 + 13) - (-20 + 18) = 3; per token -3 and -4


@pytest.mark.parametrize(
    "loss, pair, coefficients, by_hand",
    [
        (losses.ipo, PAIR, {"tau": 0.25}, 1),  # (3 - 2)²
        (losses.ipo, PAIR, {"tau": 0.1}, 4),  # (3 - 5)²
        (losses.slic_hf, PAIR, {"delta": 10, "sft_weight": 0.5}, 8),  # 10 + 12 - 20 = 2, and 6
        (losses.slic_hf, PAIR, {"delta": 1, "sft_weight": 0.5}, 6),  # apart by 8, which is enough
        (losses.rrhf, PAIR, {"sft_weight": 0.5}, 6),  # -3 is above -4 already
        (losses.rrhf, one_pair(-12, -20, nw=4, nl=10), {"sft_weight": 0.5}, 7),  # -3 is below -2
        (losses.cpo, PAIR, {"beta": 0.125, "sft_weight": 1}, 12 + LN_1_PLUS_E_MINUS_1),  # 0.125 * 8 = 1
        (losses.cpo, one_pair(-7, -7), {"beta": 3, "sft_weight": 0}, LN2),
        (losses.r_dpo, PAIR, {"beta": 1, "length_penalty": 2}, LN_1_PLUS_E_MINUS_1),  # 3 + 2 * (4 - 5) = 1
        (losses.r_dpo, PAIR, {"beta": 1, "length_penalty": 3}, LN2),
        (losses.simpo, PAIR, {"beta": 2, "gamma": 1}, LN_1_PLUS_E_MINUS_1),  # 2 * (-3 + 4) - 1 = 1
        (losses.simpo, PAIR, {"beta": 2, "gamma": 2}, LN2),
        # Probabilities per token of 4/5 and 1/2, odds of 4 and 1: sigmoid(log 4) = 4/5.
        (losses.orpo, one_pair(-3 * LN_1P25, -7 * LN2, nw=3, nl=7), {"odds_ratio_weight": 0.5}, 1.5 * LN_1P25),
    ],
)
def test_by_hand(loss, pair, coefficients, by_hand):
    per_pair = loss(pair, **coefficients)
    assert per_pair.shape == (1,)
    assert per_pair.item() == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize(
    "rewards, coefficients, by_hand",
    [
        (losses.ipo_rewards, {"tau": 0.25}, (0.25, -0.5)),  # log ratios of 1 and -2
        (losses.r_dpo_rewards, {"beta": 0.5, "length_penalty": 0.25}, (0.5 + 1, -1 + 1.25)),
        (losses.cpo_rewards, {"beta": 0.25, "sft_weight": 1}, (-3, -5)),
        (losses.simpo_rewards, {"beta": 2, "gamma": 1}, (-6, -8)),
    ],
)
def test_implicit_rewards_by_hand(rewards, coefficients, by_hand):
    assert [each.item() for each in rewards(PAIR, **coefficients)] == pytest.approx(by_hand)


@pytest.mark.parametrize(
    "name, of_margin",
    [
        ("r_dpo", lambda margin, _: math.log1p(math.exp(-margin))),
        ("simpo", lambda margin, given: math.log1p(math.exp(given["gamma"] - margin))),
        ("ipo", lambda margin, given: (margin / given["tau"] - 1 / (2 * given["tau"])) ** 2),
    ],
)
def test_the_implicit_rewards_are_what_the_loss_compares(name, of_margin):
    known = ALGORITHMS[name]
    chosen, rejected = known.rewards(PAIR, **known.coefficients)
    wanted = of_margin((chosen - rejected).item(), known.coefficients)
    assert known.loss(PAIR, **known.coefficients).item() == pytest.approx(wanted, rel=1e-5)


def test_a_chosen_reply_that_is_longer_anyway_teaches_less():
    # R-DPO's sign: at equal log-probabilities the pull on chosen is beta * sigmoid(-penalty * (nw - nl)).
    def pull(nw: float) -> float:
        pair = one_pair(-10, -10, -10, -10, nw, 5)
        pair.chosen.requires_grad_()
        losses.r_dpo(pair, beta=1, length_penalty=1).sum().backward()
        return -pair.chosen.grad.item()

    assert pull(5 - math.log(3)) == pytest.approx(3 / 4)
    assert pull(5) == pytest.approx(1 / 2)
    assert pull(5 + math.log(3)) == pytest.approx(1 / 4)


@pytest.mark.parametrize("known", OURS, ids=lambda each: each.name)
def test_finite_at_extremes(known):
    levels = [0.0, -1e-9, -1e-6, -1e-3, -1.0, -50.0, -1e4]
    lw, ll, nw = torch.cartesian_prod(tensor(levels), tensor(levels), tensor([1.0, 2048.0])).T
    pairs = PairLogProbs(
        lw.clone().requires_grad_(), ll.clone().requires_grad_(), ll.clone(), lw.clone(), nw, nw.flip(0)
    )
    loss = known.loss(pairs, **known.coefficients)
    assert loss.shape == lw.shape and loss.isfinite().all()
    loss.sum().backward()
    assert pairs.chosen.grad.isfinite().all() and pairs.rejected.grad.isfinite().all()


@pytest.mark.parametrize("known", OURS, ids=lambda each: each.name)
def test_what_needs_a_reference_asks_for_it(known):
    without = replace(PAIR, reference_chosen=None, reference_rejected=None)
    if known.reference:
        with pytest.raises(ValueError, match="needs the log-probabilities under theta0"):
            known.loss(without, **known.coefficients)
    else:
        assert known.loss(without, **known.coefficients) == known.loss(PAIR, **known.coefficients)


# Against TRL's own code, on a real model: its trainers make the batch, we take log-probabilities from the logits.

SETTINGS: dict[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "per_device_train_batch_size": 3,
    "max_length": None,
}
Make = Callable[..., Any]


def words(name: str, *replies: str) -> list[Any]:
    return [[{"role": name, "content": reply}] for reply in replies]


PAIRS = {
    "prompt": words("user", "the sun", "a cat sings", "now"),
    "chosen": words("assistant", "good dog runs here", "blue sea", "then the old tree sleeps and sings"),
    "rejected": words("assistant", "bad", "the red sun and the cat runs", "one new dog"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return tiny_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def make(folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Make:
    """make(trainer class, configuration class, model=theta1, data=PAIRS, **settings) -> a trainer."""

    def make(trainer: Any, configuration: Any, model: Any = None, data: Any = PAIRS, **settings: Any) -> Any:
        more = (
            {"ref_model": AutoModelForCausalLM.from_pretrained(folders[0])}
            if trainer.__name__[:3] in ("DPO", "KTO")
            else {}
        )
        return trainer(
            model=model or AutoModelForCausalLM.from_pretrained(folders[1]),
            args=configuration(str(tmp_path_factory.mktemp("out")), **SETTINGS, **settings),
            train_dataset=Dataset.from_dict(data),
            processing_class=AutoTokenizer.from_pretrained(folders[1]),
            **more,
        )

    return make


def batch_of(trainer: Any) -> dict[str, Tensor]:
    return next(iter(trainer.get_train_dataloader()))


@torch.no_grad()
def log_probabilities(model: PreTrainedModel, ids: Tensor, attention: Tensor, reply: Tensor) -> tuple[Tensor, Tensor]:
    """Of the replies, summed, and their tokens; `reply` is 1 at theirs."""
    logits = model.eval()(input_ids=ids, attention_mask=attention).logits[:, :-1]
    each = logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    return (each * reply[:, 1:]).sum(-1), reply[:, 1:].sum(-1)


@pytest.fixture(scope="module")
def dpo(make: Make) -> Any:
    from trl import DPOConfig, DPOTrainer

    return make(DPOTrainer, DPOConfig)


@pytest.fixture(scope="module")
def dpo_pairs(dpo: Any) -> tuple[dict[str, Tensor], PairLogProbs]:
    batch = batch_of(dpo)
    seen = batch["input_ids"], batch["attention_mask"], batch["completion_mask"]
    policy, tokens = log_probabilities(dpo.model, *seen)
    reference, _ = log_probabilities(dpo.ref_model, *seen)
    return batch, PairLogProbs(*policy.chunk(2), *reference.chunk(2), *tokens.chunk(2))


def trl_dpo(trainer: Any, batch: dict[str, Tensor], loss_type: str, beta: float) -> float:
    trainer.loss_types, trainer.beta = [loss_type], beta
    with torch.no_grad():
        return trainer.compute_loss(trainer.model, dict(batch)).item()


def test_trl_dpo_is_ours_without_a_length_penalty(dpo, dpo_pairs):
    batch, pairs = dpo_pairs
    assert len(set(pairs.chosen_tokens.tolist() + pairs.rejected_tokens.tolist())) > 3
    for beta in (0.01, 0.1, 1.0):
        ours = losses.r_dpo(pairs, beta=beta, length_penalty=0).mean().item()
        assert trl_dpo(dpo, batch, "sigmoid", beta) == pytest.approx(ours, rel=1e-5)


def test_trl_ipo_is_ours_on_means_over_tokens(dpo, dpo_pairs):
    batch, pairs = dpo_pairs
    means = PairLogProbs(
        pairs.chosen / pairs.chosen_tokens,
        pairs.rejected / pairs.rejected_tokens,
        pairs.reference_chosen / pairs.chosen_tokens,
        pairs.reference_rejected / pairs.rejected_tokens,
        pairs.chosen_tokens,
        pairs.rejected_tokens,
    )
    for tau in (0.1, 0.5):
        trl = trl_dpo(dpo, batch, "ipo", tau)
        assert trl == pytest.approx(losses.ipo(means, tau=tau).mean().item(), rel=1e-5)
        assert trl != pytest.approx(losses.ipo(pairs, tau=tau).mean().item(), rel=1e-2)


def test_trl_dpo_hinge_is_slic_hf_of_the_ratio_to_theta0(dpo, dpo_pairs):
    batch, pairs = dpo_pairs
    ratios = replace(
        pairs, chosen=pairs.chosen - pairs.reference_chosen, rejected=pairs.rejected - pairs.reference_rejected
    )
    for beta in (0.02, 0.5):
        ours = beta * losses.slic_hf(ratios, delta=1 / beta, sft_weight=0).mean().item()
        assert trl_dpo(dpo, batch, "hinge", beta) == pytest.approx(ours, rel=1e-5)


def paired(trainer: Any, batch: dict[str, Tensor]) -> PairLogProbs:
    """Of a batch of CPOTrainer or ORPOTrainer, which have no reference."""
    sides = [
        log_probabilities(
            trainer.model,
            batch[f"{side}_input_ids"],
            batch[f"{side}_attention_mask"],
            (batch[f"{side}_labels"] != -100).long(),
        )
        for side in ("chosen", "rejected")
    ]
    return PairLogProbs(sides[0][0], sides[1][0], None, None, sides[0][1], sides[1][1])


@pytest.fixture(scope="module")
def cpo(make: Make) -> Any:
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    return make(CPOTrainer, CPOConfig, loss_type="simpo")  # or it would not take simpo_gamma


def trl_cpo(trainer: Any, batch: dict[str, Tensor], **settings: object) -> float:
    for name, value in settings.items():
        assert hasattr(trainer, name)
        setattr(trainer, name, value)
    with torch.no_grad():
        return trainer.get_batch_loss_metrics(trainer.model.eval(), batch)[0].item()


def test_trl_cpo_simpo_and_hinge_without_their_sft_term(cpo):
    batch = batch_of(cpo)
    pairs = paired(cpo, batch)
    for beta in (0.1, 2.0):
        trl = trl_cpo(cpo, batch, loss_type="sigmoid", beta=beta, cpo_alpha=0)
        assert trl == pytest.approx(losses.cpo(pairs, beta=beta, sft_weight=0).mean().item(), rel=1e-5)
        trl = trl_cpo(cpo, batch, loss_type="hinge", beta=beta, cpo_alpha=0)
        ours = beta * losses.slic_hf(pairs, delta=1 / beta, sft_weight=0).mean().item()
        assert trl == pytest.approx(ours, rel=1e-5)
        trl = trl_cpo(cpo, batch, loss_type="simpo", beta=beta, cpo_alpha=0, simpo_gamma=0.6)
        assert trl == pytest.approx(losses.simpo(pairs, beta=beta, gamma=0.6).mean().item(), rel=1e-5)


def test_trl_cpo_averages_its_sft_term_over_the_tokens_of_the_batch(cpo):
    batch = batch_of(cpo)
    pairs = paired(cpo, batch)
    trl = trl_cpo(cpo, batch, loss_type="sigmoid", beta=0.1, cpo_alpha=1)
    weight = len(pairs.chosen) / pairs.chosen_tokens.sum().item()  # 1 / the mean length, as docs/training.md has it
    assert trl == pytest.approx(losses.cpo(pairs, beta=0.1, sft_weight=weight).mean().item(), rel=1e-5)


def test_trl_orpo_has_our_odds_ratio_and_a_cross_entropy_that_takes_the_prompt_in(make):
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    trainer = make(ORPOTrainer, ORPOConfig, beta=0.3)
    batch = batch_of(trainer)
    pairs = paired(trainer, batch)
    with torch.no_grad():
        chosen, rejected, _, _, cross_entropy = trainer.concatenated_forward(trainer.model.eval(), batch)
        trl = trainer.odds_ratio_loss(chosen, rejected)[0]
    ours = losses.orpo(pairs, odds_ratio_weight=0.3) - losses.orpo(pairs, odds_ratio_weight=0)
    torch.testing.assert_close(-trl, ours, rtol=1e-5, atol=1e-6)

    ids, attention = batch["chosen_input_ids"], batch["chosen_attention_mask"]
    log_probability, tokens = log_probabilities(trainer.model, ids, attention, attention)
    assert cross_entropy.item() == pytest.approx((-log_probability.sum() / tokens.sum()).item(), rel=1e-5)


def test_trl_kto_is_eq_8(make):
    from trl import KTOConfig, KTOTrainer

    weights = {"beta": 0.2, "desirable_weight": 1.5, "undesirable_weight": 0.5}
    trainer = make(KTOTrainer, KTOConfig, train_sampling_strategy="sequential", **weights)
    batch = batch_of(trainer)

    def ratios(prefix: str) -> Tensor:
        seen = [batch[f"{prefix}{name}"] for name in ("input_ids", "attention_mask", "completion_mask")]
        return log_probabilities(trainer.model, *seen)[0] - log_probabilities(trainer.ref_model, *seen)[0]

    z = ratios("KL_").mean().clamp(min=0)
    by_hand = [
        1.5 * (1 - torch.sigmoid(0.2 * (ratio - z))) if chosen else 0.5 * (1 - torch.sigmoid(0.2 * (z - ratio)))
        for ratio, chosen in zip(ratios(""), batch["label"], strict=True)
    ]
    with torch.no_grad():
        trl = trainer.compute_loss(trainer.model, dict(batch)).item()
    assert trl == pytest.approx(sum(by_hand).item() / len(by_hand), rel=1e-4)


# Each record by itself and as the tokenizer writes it: neither TRL's batch, nor its padding, nor its masks.


def ids_of(trainer: Any, messages: list[Any], **more: Any) -> Tensor:
    asked = {"return_tensors": "pt", "return_dict": False, **more}
    return trainer.processing_class.apply_chat_template(messages, **asked)


@torch.no_grad()
def test_trl_reward_is_bradley_terry_and_centres_nothing_unless_asked(make, folders):
    from trl import RewardConfig, RewardTrainer

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(folders[1], num_labels=1)
    model.score.weight.normal_()  # as drawn, all rewards are next to 0
    trainer = make(RewardTrainer, RewardConfig, model.eval())
    chosen, rejected = (
        [
            model(ids_of(trainer, prompt + reply)).logits.item()
            for prompt, reply in zip(PAIRS["prompt"], PAIRS[side], strict=True)
        ]
        for side in ("chosen", "rejected")
    )
    assert max(chosen + rejected) - min(chosen + rejected) > 0.5
    by_hand = sum(math.log1p(math.exp(r - c)) for c, r in zip(chosen, rejected, strict=True)) / 3
    batch = batch_of(trainer)
    assert trainer.compute_loss(model, dict(batch)).item() == pytest.approx(by_hand, rel=1e-4)
    trainer.args.center_rewards_coefficient = 0.01
    by_hand += 0.01 * sum((c + r) ** 2 for c, r in zip(chosen, rejected, strict=True)) / 3
    assert trainer.compute_loss(model, dict(batch)).item() == pytest.approx(by_hand, rel=1e-4)


@torch.no_grad()
def test_trl_sft_is_the_mean_over_the_tokens_of_the_replies(make):
    from trl import SFTConfig, SFTTrainer

    trainer = make(SFTTrainer, SFTConfig, data={"prompt": PAIRS["prompt"], "completion": PAIRS["chosen"]})
    sums, tokens = [], []
    for prompt, reply in zip(PAIRS["prompt"], PAIRS["chosen"], strict=True):
        ids = ids_of(trainer, prompt + reply)
        mask = torch.ones_like(ids)
        mask[:, : ids_of(trainer, prompt, add_generation_prompt=True).shape[1]] = 0
        log_probability, length = log_probabilities(trainer.model, ids, torch.ones_like(ids), mask)
        sums.append(-log_probability.item())
        tokens.append(length.item())
    trl = trainer.compute_loss(trainer.model, batch_of(trainer)).item()
    assert trl == pytest.approx(sum(sums) / sum(tokens), rel=1e-5)
    assert trl != pytest.approx(sum(s / n for s, n in zip(sums, tokens, strict=True)) / 3, rel=1e-3)  # not by reply
