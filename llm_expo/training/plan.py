"""What a recipe would do, before it is done: records, steps, tokens, memory, time. Trains nothing, writes nothing.

Steps and records are exact. Memory and time are estimates, from sizes of the model that its configuration gives (no
weights are read) and a layer of such sizes that is timed on this machine.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_expo.checkpoints import Checkpoint
from llm_expo.checkpoints.hub import hub_id
from llm_expo.errors import RecipeError
from llm_expo.training.algorithms import algorithm
from llm_expo.training.data import open_rows, read_records
from llm_expo.training.models import refuse_model
from llm_expo.training.recipe import LARGEST_COUNT, Recipe

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

_OPTIMIZER_STATE = {"adamw": 2, "adagrad": 1, "rmsprop": 1}
"""Float32 numbers that the optimizer keeps for each weight that it trains."""

_LAYER_BYTES = {"bfloat16": 60, "float32": 90}
"""Bytes that a layer keeps for the gradients, per token and hidden unit: counted on layers of Llama (55 to 61 and 80 to
92, by their inner width) under autocast of float32 weights, attention matrix excepted, which no current kernel keeps.
The 34 of Korthikanti et al. 2022 (arXiv 2205.05198, Eq. 2) are for 16-bit throughout."""

_TIMED = 2048
"""Tokens at most on which a layer is timed: more would take long on a machine that is not the one to train on."""


@dataclass(frozen=True, slots=True)
class Steps:
    """How a run is cut into steps; a step is one update of the weights."""

    schedule: int  # over so many the learning rate runs its course
    warmup: int  # of them
    trained: int  # of them
    saves: tuple[int, ...]  # models are saved after these, ascending; the last is `trained`
    resume_every: int  # a state to go on from is kept after so many
    micro_batch: int  # records that a process works on at once
    accumulation: int  # times, for one step


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes in one process that holds all of the model; FSDP or ZeRO-3 share all but the activations among them."""

    weights: int  # float32
    gradients: int  # float32
    optimizer: int  # its state, float32
    activations: int  # estimated


@dataclass(frozen=True, slots=True)
class Plan:
    """What is None needs what `missing` says is missing."""

    recipe: Recipe
    processes: int
    records: int | None
    dropped: Mapping[str, int]
    steps: Steps | None
    tokens_trained: int | None
    tokens_scored: int | None  # under theta0, once; 0 without a reference
    parameters: int | None
    trainable: int | None
    memory: Memory | None
    flop_per_second: float | None  # of one process, as measured; padding is worked on, too
    seconds: float | None
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Size:
    parameters: int
    trainable: int
    multiplied: int  # parameters that every token is multiplied with
    layers: int
    hidden: int
    inner: int  # of the MLP


def plan_steps(recipe: Recipe, records: int | None, processes: int = 1) -> Steps | None:
    """The steps of a run over so many records (of the dataset that TRL gets); None if that has to be known and is not.

    An epoch's last step takes the records that are left. Shares are rounded to the nearest step.

    Raises RecipeError where no run is possible: a batch that the processes or micro_batch_size do not divide, one
    larger than the records, no step left or none with a rate above 0, a save or warm-up beyond the end; for KTO a reply
    that is left alone.
    """
    share, rest = divmod(recipe.batch_size, processes)
    if rest:
        raise RecipeError(f"batch_size = {recipe.batch_size} cannot be shared by {processes} processes")
    micro = recipe.micro_batch_size or share
    if share % micro:
        raise RecipeError(
            f"micro_batch_size = {micro} does not divide {share}, the share of each of {processes} processes in "
            f"batch_size = {recipe.batch_size}"
        )
    if recipe.algorithm == "kto" and micro == 1:
        raise RecipeError(
            f"kto needs two replies at once in each process or more; batch_size = {recipe.batch_size} on {processes} "
            "processes gives one"
        )
    if recipe.algorithm == "kto" and records is not None and records % micro == 1:
        raise RecipeError(
            f"kto: {records} replies in micro-batches of {micro} leave one alone, whose KL term needs another's; set "
            "an even micro_batch_size"
        )
    if records is not None and recipe.batch_size > records:
        raise RecipeError(f"batch_size = {recipe.batch_size} is more than the {records} records that there are")
    if recipe.steps is not None:
        whole = recipe.steps
    elif records is not None:
        stated = recipe.epochs * math.ceil(records / recipe.batch_size)
        if stated > LARGEST_COUNT:
            raise RecipeError(f"epochs = {recipe.epochs:g} makes more than {LARGEST_COUNT:,} steps")
        whole = math.ceil(round(stated, 6))  # 0.1 of 30 steps are 3, though 0.1 * 30 is a little more
    else:
        return None
    trained = round(recipe.fraction * whole)
    if not trained:
        raise RecipeError(f"fraction = {recipe.fraction:g} of {whole} steps leaves none to train")
    schedule = whole if recipe.fraction_of == "prefix" else trained
    saves = {each if isinstance(each, int) else max(1, round(each * schedule)) for each in recipe.save_at} | {trained}
    if max(saves) > trained:
        raise RecipeError(f"save_at: step {max(saves)} is beyond the end, {trained} of {schedule} steps are trained")
    # As transformers reads warmup_steps.
    warmup = int(recipe.warmup) if recipe.warmup >= 1 else math.ceil(recipe.warmup * schedule)
    if warmup > schedule:
        raise RecipeError(f"warmup = {recipe.warmup:g} steps is longer than the schedule, {schedule} steps")
    if warmup and trained == 1:
        raise RecipeError(
            f"the only step that is trained, 1 of {schedule}, is the first of the warm-up, whose rate is 0: nothing "
            "would be learned; set warmup = 0, or train more steps"
        )
    return Steps(
        schedule=schedule,
        warmup=warmup,
        trained=trained,
        saves=tuple(sorted(saves)),
        resume_every=recipe.resume_every or max(1, round(trained / 10)),
        micro_batch=micro,
        accumulation=share // micro,
    )


def make_plan(recipe: Recipe, processes: int = 1) -> Plan:
    """The plan of a run of `recipe` on so many processes, each with the speed of this machine's GPU or CPU.

    Of the model only configuration, tokenizer and, in a folder, the names of its weights are read. A model or data set
    of the hub that cannot be reached is named in `missing`, and the plan says what can be said without.

    Raises RecipeError or CheckpointError where no run is possible: what `plan_steps`, `algorithm`, `read_records`,
    `refuse_fields` and, for a folder, `refuse_model` refuse, a folder that is no model, a file that is not there,
    settings of LoRA that fit no module.
    """
    from llm_expo.training.trainers import refuse_fields

    settled = algorithm(recipe)
    refuse_fields(recipe, settled)
    missing: list[str] = []
    config, tokenizer = _model(recipe, missing)
    records = None
    if _reachable(recipe, missing) and tokenizer is not None:
        records = read_records(recipe, tokenizer)
    if Path(recipe.model).is_dir():
        refuse_model(recipe, Checkpoint.open(recipe.model), 0 if records is None else records.longest)
    rows = None if records is None else len(records.dataset)
    steps = plan_steps(recipe, rows, processes)
    size = None if config is None else _size(recipe, config)
    trained = scored = memory = speed = seconds = None
    if records is not None and rows is not None and steps is not None:
        trained = round(records.tokens * steps.trained / math.ceil(rows / recipe.batch_size))
        # KTO's KL term takes as many tokens again: each prompt with another one's reply, only forward.
        with_kl = 2 if recipe.algorithm == "kto" else 1
        scored = records.tokens * with_kl if settled.reference else 0
        if size is not None:
            sequences = steps.micro_batch * (1 if recipe.algorithm in ("sft", "kto") else 2)
            memory = _memory(recipe, size, sequences * records.longest)
            padded = records.padded(sequences)
            speed = _speed(recipe, size, sequences, round(padded / sum(map(len, records.lengths))))
            # Forward 2 N D, backward twice that, or once where no weight of the base is trained (Kaplan et al. 2020,
            # arXiv 2001.08361, section 2.1); gradient checkpointing goes forward once more.
            passes = (4 if recipe.lora else 6) + (2 if recipe.gradient_checkpointing else 0) + 2 * (with_kl - 1)
            worked = size.multiplied * (passes * trained + 2 * scored) * padded / records.tokens
            seconds = worked / (speed * processes)
    return Plan(
        recipe=recipe,
        processes=processes,
        records=rows,
        dropped={} if records is None else records.dropped,
        steps=steps,
        tokens_trained=trained,
        tokens_scored=scored,
        parameters=None if size is None else size.parameters,
        trainable=None if size is None else size.trainable,
        memory=memory,
        flop_per_second=speed,
        seconds=seconds,
        missing=tuple(missing),
    )


def plan_lines(plan: Plan) -> list[tuple[str, str]]:
    """The plan as (what, in words), for a person."""
    recipe, steps = plan.recipe, plan.steps
    unit = {"sft": "examples", "kto": "replies"}.get(recipe.algorithm, "pairs")
    what = f"{recipe.algorithm} of {recipe.model} on {recipe.data}, seed {recipe.seed}"
    lines = [("recipe", what), ("model", f"LoRA of rank {recipe.lora.rank}" if recipe.lora else "all parameters")]
    if plan.parameters is not None and plan.trainable is not None:
        lines[-1] = ("model", f"{lines[-1][1]}: {_short(plan.trainable)} of {_short(plan.parameters)} are trained")
    if plan.records is not None:
        dropped = "".join(f"; dropped {count:,}: {why}" for why, count in plan.dropped.items())
        lines.append(("records", f"{plan.records:,} {unit}, {recipe.order}{dropped}"))
    rate = f"{recipe.optimizer}, {recipe.learning_rate:g}, {recipe.schedule}"
    if steps is None:
        length = f"{recipe.epochs:g} epochs of {unit} by {recipe.batch_size}"
        lines.append(("steps", f"{recipe.fraction:.0%} of {length}; {rate}, warm-up {recipe.warmup:g}"))
        lines.append(("saves", "at the end" + "".join(f", {each:g}" for each in recipe.save_at)))
    else:
        batch = f"batch {recipe.batch_size} = {plan.processes} processes x {steps.micro_batch} x {steps.accumulation}"
        lines.append(("steps", f"{steps.trained} of {steps.schedule}, {batch}; {rate}, warm-up {steps.warmup}"))
        lines.append(("saves", f"{recipe.save}, after {', '.join(map(str, steps.saves))}"))
        if recipe.algorithm == "kto":
            at_once = f"{plan.processes} processes x {steps.micro_batch} replies"
            lines.append(("kl", f"estimated on {at_once}; with another number of either it is another run"))
    if plan.tokens_trained is not None:
        scored = f", {_short(plan.tokens_scored)} scored once under theta0" if plan.tokens_scored else ""
        lines.append(("tokens", f"{_short(plan.tokens_trained)} trained{scored}"))
    if plan.memory is not None:
        parts = {
            "weights": plan.memory.weights,
            "gradients": plan.memory.gradients,
            recipe.optimizer: plan.memory.optimizer,
            "activations, estimated": plan.memory.activations,
        }
        told = ", ".join(f"{name} {_bytes(size)}" for name, size in parts.items())
        lines.append(("memory", f"{_bytes(sum(parts.values()))} in a process that shares nothing: {told}"))
    if plan.seconds is not None and plan.flop_per_second is not None:
        speed = f"{plan.flop_per_second / 1e12:.3g} TFLOP/s that a layer of its sizes reaches here"
        lines.append(("time", f"about {_duration(plan.seconds)}, padding counted, estimated from the {speed}"))
    return lines + [("missing", each) for each in plan.missing]


def _model(recipe: Recipe, missing: list[str]) -> tuple["PretrainedConfig | None", "PreTrainedTokenizerBase | None"]:
    """Configuration and tokenizer; if the hub cannot be asked for them, `missing` says so."""
    from transformers import AutoConfig, AutoTokenizer

    if Path(recipe.model).is_dir():
        name, revision = recipe.model, None
    elif (found := hub_id(recipe.model)) is not None:
        name, revision = found
    else:
        raise RecipeError(
            f"model = {recipe.model}: no such folder, nor an id of the hub, ORG/NAME or ORG/NAME@REVISION"
        )
    try:
        config = AutoConfig.from_pretrained(name, revision=revision)
        return config, AutoTokenizer.from_pretrained(name, revision=revision)
    except (OSError, ValueError, KeyError) as error:
        why = f"model = {recipe.model}: configuration or tokenizer cannot be read: {error}"
    if Path(recipe.model).is_dir():
        raise RecipeError(why)
    missing.append(" ".join(why.split()))
    return None, None


def _reachable(recipe: Recipe, missing: list[str]) -> bool:
    try:
        next(open_rows(recipe.data), None)
    except RecipeError as error:
        if not recipe.data.startswith("hub:"):
            raise
        missing.append(f"data = {error}")
        return False
    return True


def _size(recipe: Recipe, config: "PretrainedConfig") -> _Size:
    """Of the model that a configuration describes, built without its weights."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    try:
        with torch.device("meta"):
            if recipe.algorithm == "reward":
                config.num_labels = 1
                model: Any = AutoModelForSequenceClassification.from_config(config)
            else:
                model = AutoModelForCausalLM.from_config(config)
        total = sum(each.numel() for each in model.parameters())
        # An input embedding is looked up; where it is the output's, too, it is multiplied with.
        embedding = model.get_input_embeddings().weight
        tied = model.get_output_embeddings() is not None and model.get_output_embeddings().weight is embedding
        multiplied = total if tied else total - embedding.numel()
        text = config.get_text_config()
        if recipe.lora is not None:
            from peft import LoraConfig, get_peft_model

            task = "SEQ_CLS" if recipe.algorithm == "reward" else "CAUSAL_LM"
            lora = LoraConfig(r=recipe.lora.rank, target_modules=recipe.lora.modules, task_type=task)
            model = get_peft_model(model, lora)
    except (ValueError, AttributeError) as error:
        raise RecipeError(f"model = {recipe.model}: {error}") from None
    trainable = sum(each.numel() for each in model.parameters() if each.requires_grad)
    inner = getattr(text, "intermediate_size", None)
    if not isinstance(inner, int):  # none, or one for each layer
        inner = 4 * text.hidden_size
    return _Size(total, trainable, multiplied, text.num_hidden_layers, text.hidden_size, inner)


def _memory(recipe: Recipe, size: _Size, tokens: int) -> Memory:
    """For so many tokens at once. TRL computes logits in small pieces, so they do not count."""
    kept = _LAYER_BYTES[recipe.precision]
    # Checkpointed, a layer keeps its input in float32, and one layer at a time all of it.
    layers = size.layers * 4 + kept if recipe.gradient_checkpointing else size.layers * kept
    # Autocast keeps a copy of each weight that is trained for as long as a step lasts.
    copies = 2 * min(size.multiplied, size.trainable) if recipe.precision == "bfloat16" else 0
    return Memory(
        weights=4 * size.parameters,
        gradients=4 * size.trainable,
        optimizer=4 * _OPTIMIZER_STATE[recipe.optimizer] * size.trainable,
        activations=tokens * size.hidden * layers + copies,
    )


def _speed(recipe: Recipe, size: _Size, sequences: int, length: int) -> float:
    """FLOP/s of this machine's GPU, or CPU, forward and backward in a layer of the model's width.

    A matrix product alone is no measure: on a CPU it was 1.6 times as fast as Llama's layers. This layer is torch's,
    since a configuration does not say how to call one of the model's; it was as fast as theirs within 3 %.
    """
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    head = math.gcd(size.hidden, 64)
    layer = torch.nn.TransformerEncoderLayer(
        size.hidden, size.hidden // head, size.inner, dropout=0.0, batch_first=True, device=device
    )
    length = min(length, _TIMED)
    sequences = max(1, min(sequences, _TIMED // length))
    states = torch.randn(sequences, length, size.hidden, device=device, requires_grad=True)
    times, begin = 0, 0.0
    while times < 3 or time.perf_counter() - begin < 0.2:
        if times == 1:  # the first one loads libraries
            begin = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            loss = layer(states).sum()
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times += 1
    worked = 6 * sequences * length * sum(each.numel() for each in layer.parameters())
    return worked * (times - 1) / (time.perf_counter() - begin)


def _short(count: int) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def _bytes(size: int) -> str:
    return f"{_short(size)}B" if size >= 1000 else f"{size} B"


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds:.1f} s"
