"""A sequence-classification reward model as scorer: its own chat template, its raw logit, float32."""

from collections.abc import Sequence

import torch
from jinja2 import TemplateError
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from llm_expo.errors import ScorerError
from llm_expo.scoring.scorer import Conversation


class RewardModelScorer:
    """The score is the single logit that the model gives to the whole conversation, without any squashing.

    Args:
        source: a folder or a hub id that `AutoModelForSequenceClassification` loads with one label.
        device: such as "cpu" or "cuda"; None takes a GPU if there is one.
        batch_size: conversations at once, sorted by length.
        trust_remote_code: let the model's own Python code run.
    """

    def __init__(
        self, source: str, *, device: str | None = None, batch_size: int = 16, trust_remote_code: bool = False
    ) -> None:
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        self.name = f"reward-model:{source}"
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
            model, info = AutoModelForSequenceClassification.from_pretrained(
                source,
                dtype=torch.float32,
                trust_remote_code=trust_remote_code,
                use_safetensors=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise ScorerError(f"{self.name}: cannot be loaded: {error}") from None
        if info["missing_keys"]:
            named = ", ".join(sorted(info["missing_keys"])[:4])
            raise ScorerError(f"{self.name}: its files lack {named}: this is not a trained reward model")
        if model.config.num_labels != 1:
            raise ScorerError(f"{self.name}: has {model.config.num_labels} labels; a reward model has one")
        if not self._tokenizer.chat_template:
            raise ScorerError(f"{self.name}: has no chat template; put the one it was trained with into its folder")
        self._model = model.to(self._device).eval()
        # The model finds a row's last token by the padding id. Where that id may be text as well (often the
        # end-of-sequence token), padding would move the place of the score: then one conversation at a time.
        padding = self._tokenizer.pad_token_id
        padded = padding is not None and padding == model.config.pad_token_id != self._tokenizer.eos_token_id
        self._batch_size = batch_size if padded else 1
        self._tokenizer.padding_side = "right"

    def score(self, conversations: Sequence[Conversation]) -> list[float]:
        try:
            return self._score(conversations)
        except torch.OutOfMemoryError:
            raise ScorerError(f"{self.name}: does not fit on {self._device} beside the engine") from None

    def _score(self, conversations: Sequence[Conversation]) -> list[float]:
        rows = [self._encode(conversation) for conversation in conversations]
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]), reverse=True)
        values = [0.0] * len(rows)
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            inputs = (
                self._tokenizer.pad({"input_ids": [rows[row] for row in batch]}, return_tensors="pt")
                if (len(batch) > 1)
                else {"input_ids": torch.tensor([rows[batch[0]]])}
            )
            with torch.inference_mode():
                logits = self._model(**{name: tensor.to(self._device) for name, tensor in inputs.items()}).logits
            for row, value in zip(batch, logits[:, 0].tolist(), strict=True):
                values[row] = value
        return values

    def _encode(self, conversation: Conversation) -> list[int]:
        try:
            text = self._tokenizer.apply_chat_template(conversation, tokenize=False)
        except (TemplateError, ValueError, TypeError) as error:
            raise ScorerError(f"{self.name}: its chat template refuses a conversation: {error}") from None
        tokens: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        limit = getattr(self._model.config, "max_position_embeddings", None)
        if limit is not None and len(tokens) > limit:
            raise ScorerError(
                f"{self.name}: a conversation has {len(tokens)} tokens; the model takes {limit}; "
                f"a new study with a lower --max-tokens would fit"
            )
        return tokens
