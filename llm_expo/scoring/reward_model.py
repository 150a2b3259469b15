"""A sequence-classification reward model as scorer: its own chat template, its raw logit, float32."""

import gc
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from llm_expo.errors import ScorerError, listed
from llm_expo.scoring.scorer import Conversation, Progress, unwatched

logger = logging.getLogger(__name__)

_TOKENS_AT_ONCE = {"cpu": 4096}
"""Tokens of a batch, padding included, to begin with: a CPU gains nothing from more."""

_TOKENS_AT_ONCE_ELSEWHERE = 32768


class RewardModelScorer:
    """The score is the single logit that the model gives to the whole conversation, without any squashing.

    The model goes to its device with the first score. Conversations of like length share a batch. What does not fit
    into the device's memory is halved until it does.

    Args:
        source: a folder or a hub id that `AutoModelForSequenceClassification` loads with one label.
        device: such as "cpu" or "cuda"; None takes a GPU if there is one.
        dtype: of the weights; None is float32 on a CPU, and elsewhere what the files hold, since a GPU that has to
            hold the engine, too, has no room for more. The score is calculated in float32 either way.
        trust_remote_code: let the model's own Python code run.

    Raises:
        ScorerError: the model cannot be loaded, or is no reward model.
    """

    def __init__(
        self,
        source: str,
        *,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        self.name = f"reward-model:{source}"
        self._source = source
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._dtype = dtype or (torch.float32 if self._device.type == "cpu" else "auto")
        self._trust_remote_code = trust_remote_code
        self._tokenizer, self._model = self._load()
        if not self._tokenizer.chat_template:
            raise ScorerError(f"{self.name}: has no chat template; put the one it was trained with into its folder")
        config = self._model.config
        self._limit = getattr(config, "max_position_embeddings", None)
        # The model finds a row's last token by the padding id. Where that id may be text as well (often the
        # end-of-sequence token), padding would move the place of the score: then one conversation at a time.
        padding = self._tokenizer.pad_token_id
        self._padded = padding is not None and padding == config.pad_token_id != self._tokenizer.eos_token_id
        self._tokenizer.padding_side = "right"
        self._tokens_at_once = _TOKENS_AT_ONCE.get(self._device.type, _TOKENS_AT_ONCE_ELSEWHERE)

    def _load(self) -> tuple[Any, Any]:
        """Tokenizer and model."""
        try:
            tokenizer = AutoTokenizer.from_pretrained(self._source, trust_remote_code=self._trust_remote_code)
            model, info = AutoModelForSequenceClassification.from_pretrained(
                self._source,
                dtype=self._dtype,
                trust_remote_code=self._trust_remote_code,
                use_safetensors=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, ImportError, KeyError) as error:
            if "trust_remote_code" in str(error):
                raise ScorerError(
                    f"{self.name}: needs Python code that comes with it; read it, and let it run with "
                    f"--trust-remote-code"
                ) from None
            raise ScorerError(f"{self.name}: cannot be loaded: {error}") from None
        if info["missing_keys"]:
            named = listed(sorted(info["missing_keys"]), ", ", most=4)
            raise ScorerError(f"{self.name}: its files lack {named}: this is not a trained reward model")
        if model.config.num_labels != 1:
            raise ScorerError(f"{self.name}: has {model.config.num_labels} labels; a reward model has one")
        _score_in_float32(model)
        return tokenizer, model.eval()

    def rest(self) -> None:
        """Give the device's memory back until the next score; a CPU's model is loaded again then."""
        if self._device.type == "cpu":
            self._model = None
            gc.collect()
        else:
            self._model.to("cpu")
            torch.cuda.empty_cache()

    def score(self, conversations: Sequence[Conversation], progress: Progress = unwatched) -> list[float]:
        """The logits, in float32.

        Raises:
            ScorerError: a conversation is too long for the model, or does not fit into memory even alone.
        """
        rows = [self._encode(conversation) for conversation in conversations]
        if self._model is None:
            _, self._model = self._load()
        self._model.to(self._device)
        # The longest first, so that what does not fit into memory fails at once.
        left = sorted(range(len(rows)), key=lambda row: len(rows[row]), reverse=True)
        values = [0.0] * len(rows)
        while left:
            longest = len(rows[left[0]])
            batch = left[: max(1, self._tokens_at_once // longest)] if self._padded else left[:1]
            scores = self._forward([rows[row] for row in batch])
            if scores is None:
                self._take_less(len(batch), longest)
                continue
            for row, value in zip(batch, scores, strict=True):
                values[row] = value
            left = left[len(batch) :]
            progress(len(rows) - len(left), len(rows))
        return values

    def _forward(self, rows: list[list[int]]) -> list[float] | None:
        """The scores of one batch; None where it does not fit into memory."""
        try:
            # A row alone is not padded, and needs no mask: so a model without a padding token is served, too.
            inputs: Mapping[str, Tensor] = {"input_ids": torch.tensor([rows[0]])}
            if len(rows) > 1:
                inputs = self._tokenizer.pad({"input_ids": rows}, return_tensors="pt")
            with torch.inference_mode():
                logits = self._model(**{name: tensor.to(self._device) for name, tensor in inputs.items()}).logits
            scores: list[float] = logits[:, 0].float().tolist()
        except RuntimeError as error:
            # A CPU's allocator has no class of its own for this.
            if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                raise
            return None
        return scores

    def _take_less(self, rows: int, longest: int) -> None:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        if rows == 1:
            raise ScorerError(
                f"{self.name}: a conversation of {longest} tokens does not fit into the memory of {self._device}, even "
                f"alone"
            )
        self._tokens_at_once = longest * (rows // 2)
        logger.warning(
            "%s: out of memory at %d conversations of up to %d tokens; going on with %d at once",
            self.name, rows, longest, rows // 2,
        )  # fmt: skip

    def _encode(self, conversation: Conversation) -> list[int]:
        try:
            text = self._tokenizer.apply_chat_template(conversation, tokenize=False)
        except (TemplateError, ValueError, TypeError) as error:
            raise ScorerError(f"{self.name}: its chat template refuses a conversation: {error}") from None
        tokens: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        if self._limit is not None and len(tokens) > self._limit:
            raise ScorerError(
                f"{self.name}: a conversation has {len(tokens)} tokens; the model takes {self._limit}; "
                f"a new study with a lower --max-tokens would fit"
            )
        return tokens


def _score_in_float32(model: Any) -> None:
    """Calculate what stands behind the base model in float32: a logit of 16 bits has steps of a hundredth."""
    for name, module in model.named_children():
        if name != model.base_model_prefix:
            module.float().register_forward_pre_hook(_in_float32)


def _in_float32(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(each.float() if isinstance(each, Tensor) and each.is_floating_point() else each for each in inputs)
