"""theta0 as training takes it: what is refused before anything is trained, by a run and by its plan alike.

Weights are float32: the steps of preference training are smaller than bfloat16 can tell. Knows no data but its lengths.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from llm_expo.checkpoints import Checkpoint
from llm_expo.checkpoints.files import shown
from llm_expo.errors import CheckpointError, RecipeError
from llm_expo.training.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_tokenizer(theta0: Checkpoint) -> "PreTrainedTokenizerBase":
    """theta0's tokenizer. Raises CheckpointError."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(theta0.tokenizer_folder)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise CheckpointError(f"{shown(theta0.path)}: its tokenizer cannot be loaded: {error}") from None


def refuse_model(recipe: Recipe, theta0: Checkpoint, longest: int) -> None:
    """Raise RecipeError for a theta0 that cannot be trained so; of its weights only the names are read.

    longest: tokens of the longest record.

    Refused are weights that transformers would draw at random (a reward model's head excepted), and records longer than
    the context.
    """
    context = theta0.config.get("max_position_embeddings")
    if isinstance(context, int) and longest > context:
        raise RecipeError(
            f"max_length: the longest record has {longest} tokens, and theta0 {shown(theta0.path)} a context of "
            f"{context}; set max_length = {context}"
        )
    with quiet():  # of what is missing, which is told below
        _, loading = _from_files(recipe, theta0, device_map="meta")
    drawn = sorted(set(loading["missing_keys"]) | {str(each) for each in loading["mismatched_keys"]})
    drawn = [name for name in drawn if recipe.algorithm != "reward" or not name.startswith(("score.", "classifier."))]
    if drawn:
        raise RecipeError(
            f"model = {recipe.model}: {len(drawn)} weights are not in its files, {drawn[0]} for one, and would be "
            "drawn at random; it is no whole language model"
        )


def load_model(recipe: Recipe, theta0: Checkpoint, tokenizer: "PreTrainedTokenizerBase") -> "PreTrainedModel":
    """theta0 in float32, for `reward` with a head of one output, which is drawn by the recipe's seed."""
    import torch

    if recipe.algorithm == "reward":
        torch.manual_seed(recipe.seed)
    model, _ = _from_files(recipe, theta0)
    if recipe.algorithm == "reward":
        padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        model.config.pad_token_id = padding
    if theta0.located.repo is not None:
        model.name_or_path = theta0.located.repo  # what an adapter will name as its base
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """What we tell ourselves, or cannot change, need not be told by the libraries as well."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl)\.")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _from_files(recipe: Recipe, theta0: Checkpoint, **more: Any) -> "tuple[PreTrainedModel, dict[str, Any]]":
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    kind: Any = AutoModelForCausalLM
    if recipe.algorithm == "reward":
        kind, more = AutoModelForSequenceClassification, {"num_labels": 1, **more}
    try:
        loaded: tuple[PreTrainedModel, dict[str, Any]] = kind.from_pretrained(
            theta0.path, dtype=torch.float32, output_loading_info=True, **more
        )
    except (ValueError, TypeError, RuntimeError, ImportError, LookupError, AttributeError) as error:
        if "memory" in str(error):
            raise
        raise RecipeError(
            f"model = {recipe.model}: transformers cannot load it: {type(error).__name__}: {error}"
        ) from error
    return loaded
