"""A recipe: one training run, as a TOML file states it. Knows no data and no model; reads nothing but the file.

Keys have TRL's meaning where TRL has them; what we do not name goes to TRL through the table [trl].
"""

import difflib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from llm_expo.errors import MissingExtraError, RecipeError

AlgorithmName = Literal["dpo", "ipo", "slic_hf", "rrhf", "cpo", "kto", "r_dpo", "simpo", "orpo", "sft", "reward"]
Optimizer = Literal["adamw", "adagrad", "rmsprop"]
Schedule = Literal["cosine", "linear", "constant"]
Order = Literal["random", "length_biased", "as_given"]
Save = Literal["float32", "difference", "bfloat16"]

try:
    from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
except ImportError:
    raise MissingExtraError("pydantic", "train") from None

_strict = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
LARGEST_COUNT = 10**9
Count = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """A LoRA adapter is trained instead of the whole model (arXiv 2106.09685)."""

    __pydantic_config__ = _strict

    rank: Count = 16
    alpha: Positive = 32.0  # of LoRA: the update is scaled by alpha / rank
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    modules: str | list[str] = "all-linear"  # PEFT's target_modules


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One training run. A step is one update of the weights; a record is a pair, or an example for SFT."""

    __pydantic_config__ = _strict

    model: str  # theta0: a folder, seen from the recipe's, or a hub id with or without @revision
    data: str  # a JSONL file, seen from the recipe's folder, or hub:DATASET:SPLIT
    algorithm: AlgorithmName
    coefficients: dict[str, float] = field(default_factory=dict)  # of the algorithm's loss; the rest: its defaults

    learning_rate: Positive
    schedule: Schedule = "cosine"
    warmup: NotNegative = 0.1  # below 1: a share of the schedule's steps; from 1 on: steps
    optimizer: Optimizer = "adamw"
    weight_decay: NotNegative = 0.0
    max_grad_norm: Positive = 1.0
    batch_size: Count  # records of a step, over all processes
    micro_batch_size: Count | None = None  # records that a process works on at once; default: all of its share
    epochs: Positive = 1.0
    steps: Count | None = None  # of the schedule, instead of epochs
    fraction: Share = 1.0  # of the steps to train
    fraction_of: Literal["prefix", "schedule"] = "prefix"  # stop early in the whole schedule, or shorten it
    order: Order = "random"  # length_biased: by (chosen - rejected) tokens, descending (ExPO, section 3.3)

    max_length: Count = 1024  # tokens of prompt and reply
    max_prompt_length: Count | None = None  # tokens
    too_long: Literal["drop", "truncate", "refuse"] = "drop"  # records beyond these limits
    degenerate: Literal["refuse", "drop"] = "refuse"  # records with chosen equal to rejected, or a reply without text

    precision: Literal["bfloat16", "float32"] = "bfloat16"  # of the arithmetic (autocast); weights stay float32
    gradient_checkpointing: bool = False  # less memory for more time
    lora: Lora | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42

    save: Save = "float32"  # how models are kept; an adapter is always kept as one
    save_at: list[Count | Positive] = field(default_factory=list)  # also at these: shares of all steps, or steps
    resume_every: Count | None = None  # steps between the states that a killed run goes on from; default: a tenth

    trl: dict[str, Any] = field(default_factory=dict)  # fields of TRL's configuration, as they are


def read_recipe(path: Path, save: Save | None = None) -> Recipe:
    """The recipe of a TOML file; `model` and `data` become absolute where they are files or folders beside it.

    save: in the place of the recipe's own.

    Raises RecipeError, with every mistake at once: unknown keys with the nearest known one, wrong types, impossible
    values.
    """
    try:
        stated = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such file") from None
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise RecipeError(f"{path}: not TOML: {error}") from None
    stated |= {} if save is None else {"save": save}
    wrong = _unknown(stated, Recipe, "")
    if isinstance(lora := stated.get("lora"), dict):
        wrong += _unknown(lora, Lora, "lora.")
    try:
        # As JSON: in its strict mode pydantic takes a table for a dataclass only from there.
        recipe = TypeAdapter(Recipe).validate_json(json.dumps(stated, default=str), strict=True)
    except ValidationError as error:
        found: dict[str, str] = {}
        for each in error.errors():
            if each["type"] != "unexpected_keyword_argument":
                found.setdefault(_place(each), _mistake(each))  # a value of two kinds has two mistakes: one is enough
        wrong += found.values()
    if not wrong:
        wrong = impossible(recipe)
    if wrong:
        raise RecipeError(f"{path}: {'; '.join(wrong)}")
    return replace(recipe, model=_beside(path, recipe.model), data=_beside(path, recipe.data))


def impossible(recipe: Recipe) -> list[str]:
    """What is wrong with a recipe whatever its data and machine are: settings that cannot go together."""
    wrong = []
    for name, value in (("model", recipe.model), ("data", recipe.data)):
        if not value.strip():
            wrong.append(f"{name} is empty")
        elif "\0" in value:
            wrong.append(f"{name} is {json.dumps(value)[:80]}: no path holds a NUL")
    if recipe.max_prompt_length is not None and recipe.max_prompt_length >= recipe.max_length:
        wrong.append(
            f"max_prompt_length = {recipe.max_prompt_length} leaves no room for a reply in max_length = "
            f"{recipe.max_length}"
        )
    if recipe.micro_batch_size is not None and recipe.batch_size % recipe.micro_batch_size:
        wrong.append(f"micro_batch_size = {recipe.micro_batch_size} does not divide batch_size = {recipe.batch_size}")
    if recipe.steps is not None and recipe.epochs != 1.0:
        wrong.append(f"steps = {recipe.steps} and epochs = {recipe.epochs:g} both say how long; give one of them")
    shares = [each for each in recipe.save_at if isinstance(each, float)]
    if any(share > 1 for share in shares):
        wrong.append(f"save_at = {max(shares):g} is beyond the end: a number with a point is a share of all steps")
    elif recipe.fraction_of == "prefix" and any(share > recipe.fraction for share in shares):
        wrong.append(f"save_at = {max(shares):g} is beyond the end, fraction = {recipe.fraction:g} of the same steps")
    if recipe.algorithm == "sft" and recipe.order == "length_biased":
        wrong.append('order = "length_biased" compares two replies, and sft has one')
    if recipe.algorithm == "kto":
        if recipe.order != "random":
            wrong.append(f'order = "{recipe.order}" is for pairs; kto takes single replies, in random order')
        if 1 in (recipe.batch_size, recipe.micro_batch_size):
            wrong.append("kto needs two replies at once or more: its KL term pairs each prompt with another's reply")
    if recipe.algorithm == "reward":
        if recipe.too_long == "truncate":
            wrong.append('too_long = "truncate" is not for reward, whose score is read at the end; use "drop"')
        if recipe.save != "float32":
            wrong.append(f'save = "{recipe.save}" is not for reward, whose head theta0 does not have; use "float32"')
    if recipe.lora is not None and recipe.save != "float32":
        wrong.append(f'save = "{recipe.save}" is for whole models; an adapter is small as it is')
    return wrong


def _unknown(stated: Mapping[str, Any], of: type[Recipe] | type[Lora], prefix: str) -> list[str]:
    known = [each.name for each in fields(of)]
    wrong = []
    for key in stated:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"there are {', '.join(known)}"
            wrong.append(f"unknown key {prefix}{key}; {hint}")
    return wrong


def _mistake(error: Any) -> str:
    """`error`: one of pydantic's ErrorDetails."""
    place = _place(error)
    if error["type"] == "missing":
        return f"{place} is missing"
    return f"{place} is {json.dumps(error['input'], default=str)[:80]}: {error['msg'][:1].lower()}{error['msg'][1:]}"


def _place(error: Any) -> str:
    """The key, without pydantic's names for the kinds of value that it may have."""
    kinds = ("constrained-int", "constrained-float", "str", "list[str]")
    return ".".join(str(each) for each in error["loc"] if each not in kinds)


def _beside(path: Path, named: str) -> str:
    """Absolute, if `named` is a file or folder seen from the recipe's folder; otherwise as it is."""
    try:
        found = path.parent / Path(named).expanduser()
    except RuntimeError:  # ~ of nobody
        return named
    return str(found.resolve()) if found.exists() else named
