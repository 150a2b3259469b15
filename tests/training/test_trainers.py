"""The adapter's contract with TRL: a loss of ours goes the way that TRL's own goes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid
from transformers import AutoTokenizer

from llm_expo.checkpoints import Checkpoint
from llm_expo.training.algorithms import ALGORITHMS, Algorithm
from llm_expo.training.data import read_records
from llm_expo.training.losses import PairLogProbs
from llm_expo.training.plan import plan_steps
from llm_expo.training.recipe import AlgorithmName, Recipe
from llm_expo.training.trainers import PairTrainer, make_trainer

Make = Callable[..., Recipe]


def history(recipe: Recipe, algorithm: Algorithm, tmp_path: Path, **loaded: Any) -> list[dict[str, float]]:
    """What TRL logs of a run, step by step."""
    trainer = made(recipe, algorithm, tmp_path)
    trainer.train()
    return [row for row in trainer.state.log_history if "loss" in row]


def made(recipe: Recipe, algorithm: Algorithm, tmp_path: Path) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(recipe.model)
    records = read_records(recipe, tokenizer)
    steps = plan_steps(recipe, len(records.dataset))
    assert steps is not None
    theta0 = Checkpoint.open(recipe.model)
    return make_trainer(recipe, algorithm, steps, records.dataset, records.sequential, tokenizer, theta0, tmp_path)


def dpo(pairs: PairLogProbs, *, beta: float) -> torch.Tensor:
    assert pairs.reference_chosen is not None and pairs.reference_rejected is not None
    return -logsigmoid(beta * (pairs.chosen - pairs.reference_chosen - pairs.rejected + pairs.reference_rejected))


def dpo_rewards(pairs: PairLogProbs, *, beta: float) -> tuple[torch.Tensor, torch.Tensor]:
    assert pairs.reference_chosen is not None and pairs.reference_rejected is not None
    return beta * (pairs.chosen - pairs.reference_chosen), beta * (pairs.rejected - pairs.reference_rejected)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("micro_batch_size", [8, 2])
def test_dpo_as_a_loss_of_ours_is_trls_dpo(
    recipe: Make, tmp_path: Path, micro_batch_size: int, lora: bool, request: pytest.FixtureRequest
) -> None:
    from llm_expo.training.recipe import Lora

    asked = recipe(micro_batch_size=micro_batch_size, lora=Lora(rank=2) if lora else None)
    theirs = history(asked, ALGORITHMS["dpo"], tmp_path / "theirs")
    ours = history(asked, replace(ALGORITHMS["dpo"], loss=dpo, rewards=dpo_rewards), tmp_path / "ours")
    rewards = [f"rewards/{name}" for name in ("chosen", "rejected", "margins", "accuracies")]
    for key in ("loss", "grad_norm", "logps/chosen", "logps/rejected", "num_tokens", *rewards):
        assert [row[key] for row in ours] == pytest.approx([row[key] for row in theirs], rel=1e-4), key


@pytest.mark.parametrize("name", ["dpo", "simpo", "reward", "sft"])
def test_every_record_counts_the_same_however_a_step_is_cut(
    recipe: Make, examples: Path, tmp_path: Path, name: AlgorithmName
) -> None:
    """Of 40 records by 18, 4 are left: in micro-batches of 3 they are 3 and 1, in one of 18 they are 4."""
    data = {"data": str(examples)} if name == "sft" else {}
    whole, cut = (
        history(
            recipe(algorithm=name, batch_size=18, micro_batch_size=micro, warmup=0.0, max_grad_norm=1e9, **data),
            ALGORITHMS[name],
            tmp_path / str(micro),
        )
        for micro in (18, 3)
    )
    assert len(whole) == 3
    for key in ("loss", "grad_norm"):
        assert [row[key] for row in cut] == pytest.approx([row[key] for row in whole], rel=1e-4), key


def test_without_a_reference_theta0_is_not_asked(recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(PairTrainer, "compute_ref_log_probs", lambda *_: asked.append(1))
    trainer = made(recipe(algorithm="simpo"), ALGORITHMS["simpo"], tmp_path)
    assert trainer.ref_model is None and not asked
    assert "ref_chosen_logps" not in trainer.train_dataset.column_names


def test_the_loss_sees_sums_over_the_replies_tokens_alone(recipe: Make, theta0: Path, tmp_path: Path) -> None:
    seen: list[PairLogProbs] = []

    def spy(pairs: PairLogProbs, **_: float) -> torch.Tensor:
        seen.append(pairs)
        return pairs.rejected - pairs.chosen

    asked = recipe(order="as_given", learning_rate=1e-30)
    trainer = made(asked, replace(ALGORITHMS["simpo"], loss=spy), tmp_path)
    trainer.train()
    tokenizer = AutoTokenizer.from_pretrained(theta0)
    model = trainer.model.eval()
    for index, row in enumerate(trainer.train_dataset.select(range(8))):
        for side, sums, counts in (
            ("chosen", seen[0].chosen, seen[0].chosen_tokens),
            ("rejected", seen[0].rejected, seen[0].rejected_tokens),
        ):
            text = tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
            begin = len(tokenizer(text, add_special_tokens=False)["input_ids"])
            whole = tokenizer.apply_chat_template(row["prompt"] + row[side], tokenize=False)
            tokens = torch.tensor([tokenizer(whole, add_special_tokens=False)["input_ids"]])
            with torch.no_grad():
                log_probs = model(input_ids=tokens).logits.float().log_softmax(-1)
            wanted = log_probs[0, begin - 1 : -1].gather(-1, tokens[0, begin:, None]).sum()
            assert counts[index] == tokens.shape[1] - begin
            assert sums[index].item() == pytest.approx(wanted.item(), rel=1e-4)
