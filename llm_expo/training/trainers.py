"""TRL's trainers as a recipe wants them, and the one adapter that gives DPOTrainer another loss.

TRL trains. Where its loss is not the published one, or there is none, PairTrainer puts ours (losses.py) in the place of
one private method; the contract test in tests/training/test_trainers.py tells when TRL changes it. Knows no folder
layout, no resuming.
"""

import difflib
import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

import torch
from datasets import Dataset
from peft import LoraConfig, TaskType
from pydantic import ConfigDict, TypeAdapter, ValidationError
from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

from llm_expo.checkpoints import Checkpoint
from llm_expo.errors import RecipeError
from llm_expo.training.algorithms import Algorithm
from llm_expo.training.losses import PairLogProbs
from llm_expo.training.models import load_model
from llm_expo.training.plan import Steps
from llm_expo.training.recipe import Recipe

_OPTIMIZERS = {"adamw": "adamw_torch", "adagrad": "adagrad", "rmsprop": "rmsprop"}
_SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}

# Fields by which steps, saves or precision would no longer be what the recipe says, or a killed run end otherwise.
_REFUSED = frozenset(
    "save_only_model ignore_data_skip resume_from_checkpoint num_train_epochs model_init_kwargs load_best_model_at_end "
    "auto_find_batch_size dataloader_drop_last packing push_to_hub fp16 fsdp deepspeed sync_ref_model pad_token".split()
)
# What DPOTrainer would calculate its loss from, and a loss of ours does not.
_LOSS_FIELDS = frozenset(
    "beta loss_type loss_weights label_smoothing use_weighting f_divergence_type f_alpha_divergence_coef ld_alpha "
    "discopop_tau".split()
)


class PairTrainer(DPOTrainer):
    """DPOTrainer with a loss of ours, and without theta0's log-probabilities where that loss has no use for them."""

    def __init__(self, *arguments: Any, algorithm: Algorithm, **others: Any) -> None:
        self._algorithm = algorithm  # DPOTrainer's __init__ already asks for the log-probabilities
        super().__init__(*arguments, **others)

    def _precompute_ref_logps(self, dataset: Dataset, *others: Any) -> Dataset:
        return super()._precompute_ref_logps(dataset, *others) if self._algorithm.reference else dataset

    def _compute_loss(self, model: Any, inputs: Mapping[str, Any], return_outputs: bool) -> Any:
        mask = inputs["completion_mask"]
        asked = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"], "use_cache": False}
        if self.aux_loss_enabled:
            asked["output_router_logits"] = True
        outputs = model(**asked, labels=inputs["input_ids"].masked_fill(mask == 0, -100), fused_lm_head=True)
        # Rows are all chosen replies, then all rejected ones.
        chosen, rejected = outputs.log_probs.float().sum(dim=1).chunk(2)
        chosen_tokens, rejected_tokens = mask[:, 1:].sum(dim=1).chunk(2)
        pairs = PairLogProbs(
            chosen=chosen,
            rejected=rejected,
            reference_chosen=inputs.get("ref_chosen_logps"),
            reference_rejected=inputs.get("ref_rejected_logps"),
            chosen_tokens=chosen_tokens,
            rejected_tokens=rejected_tokens,
        )
        assert self._algorithm.loss is not None
        loss = self._algorithm.loss(pairs, **self._algorithm.coefficients).mean()
        if self.aux_loss_enabled:  # balances a mixture's experts, as DPOTrainer has it
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss
        self._log_means(pairs, inputs["attention_mask"].sum(), "train" if model.training else "eval")
        return (loss, outputs) if return_outputs else loss

    @torch.no_grad()
    def _log_means(self, pairs: PairLogProbs, tokens: torch.Tensor, mode: str) -> None:
        """By DPOTrainer's names."""
        means = {"logps/chosen": pairs.chosen, "logps/rejected": pairs.rejected}
        if self._algorithm.rewards is not None:
            chosen, rejected = self._algorithm.rewards(pairs, **self._algorithm.coefficients)
            means |= {"rewards/chosen": chosen, "rewards/rejected": rejected, "rewards/margins": chosen - rejected}
            means["rewards/accuracies"] = (chosen > rejected).float()
        for name, values in means.items():
            self._metrics[mode][name].append(self.accelerator.gather(values).mean().item())
        if mode == "train":
            self._total_train_tokens += self.accelerator.gather_for_metrics(tokens).sum().item()
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]


def make_trainer(
    recipe: Recipe,
    algorithm: Algorithm,
    steps: Steps,
    dataset: Dataset,
    sequential: bool,
    tokenizer: PreTrainedTokenizerBase,
    theta0: Checkpoint,
    states: Path,
) -> Trainer:
    """A trainer that is ready for `train()`; theta0's log-probabilities, where they are needed, are computed here.

    dataset, sequential: records, and whether they are to be taken in their order (data.py).
    states: where TRL keeps what a killed run goes on from.

    Raises RecipeError for what TRL's configuration refuses.
    """
    make, config, extra = _kind(algorithm)
    ours = {**_ours(recipe, steps, sequential, states), **extra}
    refuse_fields(recipe, algorithm)
    if "disable_dropout" in _names(config):  # or TRL takes LoRA's away, too
        ours["disable_dropout"] = recipe.lora is None or recipe.lora.dropout == 0
    defaults = {"report_to": "none", "dataloader_pin_memory": torch.accelerator.is_available()}
    try:
        arguments = config(**{**defaults, **recipe.trl, **ours})
    except (ValueError, TypeError, ImportError) as error:
        raise RecipeError(f"TRL's {config.__name__} refuses: {error}") from None
    trainer = make(
        model=load_model(recipe, theta0, tokenizer),
        args=arguments,
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=_lora(recipe),
    )
    if algorithm.name != "sft":  # whose loss is a mean over the step's tokens, however they are cut
        _weigh_records_alike(trainer)
    return trainer


def refuse_fields(recipe: Recipe, algorithm: Algorithm) -> None:
    """Raise RecipeError for a key of [trl] that the recipe sets itself, that TRL lacks, or that is not to be had.

    And for a value of another type than TRL declares: TRL would take it, and fail with it amid the training.
    """
    _, config, extra = _kind(algorithm)
    known = _names(config)
    # Only the names count, so any steps will do.
    ours = {*_ours(recipe, Steps(1, 0, 1, (1,), 1, 1, 1), True, Path()), *extra, "disable_dropout"}
    refused = _REFUSED | (_LOSS_FIELDS if algorithm.loss is not None else frozenset())
    types = get_type_hints(config)
    for key, value in recipe.trl.items():
        if key in ours:
            raise RecipeError(f"trl.{key}: is set by the recipe itself; leave it out of [trl]")
        if key in refused:
            raise RecipeError(
                f"trl.{key}: cannot be had here: it would change steps, resuming or the loss; leave it out"
            )
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise RecipeError(f"trl.{key}: {config.__name__} has no such field" + (f"; {near[0]}?" if near else ""))
        try:
            TypeAdapter(types[key], config=ConfigDict(strict=True, arbitrary_types_allowed=True)).validate_python(value)
        except ValidationError:
            wanted = types[key].__name__ if isinstance(types[key], type) else types[key]
            raise RecipeError(
                f"trl.{key} is {json.dumps(value)[:80]}: in {config.__name__} it is of the type {wanted}"
            ) from None


def _weigh_records_alike(trainer: Trainer) -> None:
    """Have every record of a step count the same in its loss.

    An epoch's last step takes the records that are left, and transformers takes the mean over its micro-batches, as if
    they were of one size. So the loss of one that has n of the step's N records, in k micro-batches, is multiplied by
    n k / N. Several processes fill theirs up instead: there it is 1.
    """
    batches_as_they_are, loss_as_it_is = trainer.get_batch_samples, trainer.compute_loss
    usual = 1.0  # N / k, in rows; a pair has two

    def get_batch_samples(*arguments: Any, **more: Any) -> Any:
        nonlocal usual
        batches, items = batches_as_they_are(*arguments, **more)
        usual = sum(len(batch["input_ids"]) for batch in batches) / max(len(batches), 1)
        return batches, items

    def compute_loss(model: Any, inputs: Any, *others: Any, **more: Any) -> Any:
        loss: Any = loss_as_it_is(model, inputs, *others, **more)
        return loss * (len(inputs["input_ids"]) / usual)

    trainer.get_batch_samples = get_batch_samples  # type: ignore[method-assign]
    trainer.compute_loss = compute_loss  # type: ignore[method-assign]


def _kind(algorithm: Algorithm) -> tuple[Callable[..., Trainer], type[TrainingArguments], dict[str, Any]]:
    """TRL's trainer, its configuration, and the fields of that which are the algorithm's."""
    # theta0's log-probabilities are computed once, beforehand, instead of holding a second model for them.
    once = {"precompute_ref_log_probs": True}
    if algorithm.name == "sft":
        return SFTTrainer, SFTConfig, {}
    if algorithm.name == "reward":
        return RewardTrainer, RewardConfig, {}
    if algorithm.name == "kto":
        return KTOTrainer, KTOConfig, {**once, **algorithm.coefficients}
    if algorithm.loss is None:
        return DPOTrainer, DPOConfig, {**once, **algorithm.coefficients}
    return partial(PairTrainer, algorithm=algorithm), DPOConfig, once


def _names(config: type[TrainingArguments]) -> list[str]:
    return [each.name for each in fields(config) if each.init]


def _ours(recipe: Recipe, steps: Steps, sequential: bool, states: Path) -> dict[str, Any]:
    """TRL's fields as the recipe has them."""
    return {
        "output_dir": str(states),
        "seed": recipe.seed,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": _SCHEDULES[recipe.schedule],
        "warmup_steps": recipe.warmup,
        "optim": _OPTIMIZERS[recipe.optimizer],
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.max_grad_norm,
        "max_steps": steps.schedule,
        "per_device_train_batch_size": steps.micro_batch,
        "gradient_accumulation_steps": steps.accumulation,
        "gradient_checkpointing": recipe.gradient_checkpointing,
        "max_length": recipe.max_length,
        "bf16": recipe.precision == "bfloat16",
        "train_sampling_strategy": "sequential" if sequential else "random",
        "save_strategy": "no",  # the run itself says when
        "save_total_limit": 1,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # or a NaN would be shown as the average of what came before
        "disable_tqdm": True,
        "use_cpu": not torch.accelerator.is_available(),
    }


def _lora(recipe: Recipe) -> LoraConfig | None:
    if recipe.lora is None:
        return None
    return LoraConfig(
        r=recipe.lora.rank,
        lora_alpha=recipe.lora.alpha,  # type: ignore[arg-type]  # a number, whatever PEFT declares
        lora_dropout=recipe.lora.dropout,
        target_modules=recipe.lora.modules,
        task_type=TaskType.SEQ_CLS if recipe.algorithm == "reward" else TaskType.CAUSAL_LM,
    )
