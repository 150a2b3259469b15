"""theta1's tokenizer, chat template and ends: prompts to token ids, and token ids to replies.

All engines share it, so that all are asked the same. Knows no weights and no model, only what its config says.
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from llm_expo.checkpoints import Checkpoint
from llm_expo.errors import EngineError, PromptError
from llm_expo.generation.engine import Reply
from llm_expo.generation.prompts import Prompt


class Vocabulary:
    """What turns a prompt into tokens and a token into an end, for every theta(alpha) alike."""

    def __init__(self, aligned: Checkpoint, trust_remote_code: bool) -> None:
        self._folder = aligned.path
        self._tokenizer = load_tokenizer(aligned.tokenizer_folder, trust_remote_code)
        require_template(self._tokenizer, aligned.tokenizer_folder)
        self.config = _config(aligned.path, trust_remote_code)

    @cached_property
    def stops(self) -> list[int]:
        """Every id that theta1's generation config ends at; its config's or tokenizer's where it names none."""
        generation = None
        if (self._folder / "generation_config.json").exists():
            try:
                generation = GenerationConfig.from_pretrained(self._folder)
            except (OSError, ValueError, TypeError) as error:
                raise EngineError(f"{self._folder}: its generation config cannot be loaded: {error}") from None
        for source in (generation, self.config, self._tokenizer):
            ids = getattr(source, "eos_token_id", None)
            ids = [ids] if isinstance(ids, int) else ids
            if isinstance(ids, list | tuple) and ids and all(isinstance(token, int) for token in ids):
                return list(ids)
        raise EngineError("theta1 names no end-of-sequence token; add eos_token_id to its generation_config.json")

    @cached_property
    def digest(self) -> str:
        """A hash of template, ends and vocabulary."""
        vocabulary = sorted(self._tokenizer.get_vocab().items())
        template = repr((self._tokenizer.chat_template, self.stops, vocabulary)).encode()
        return hashlib.sha256(template).hexdigest()[:16]

    @property
    def special_tokens(self) -> dict[int, str]:
        """Id and text of each special token, those that end a reply included."""
        tokens = self._tokenizer.added_tokens_decoder.items()
        named = {token: str(added) for token, added in tokens if added.special}
        return named | dict(zip(self._tokenizer.all_special_ids, self._tokenizer.all_special_tokens, strict=True))

    def encode(self, prompts: Sequence[Prompt], max_tokens: int) -> list[tuple[int, ...]]:
        """Token ids of each; PromptError for one that leaves no room for a reply of `max_tokens` in the context."""
        return [self._encode(prompt, max_tokens) for prompt in prompts]

    def reply(self, tokens: list[int]) -> Reply:
        """The reply that these tokens are, of which the last one is its end, unless it was cut off."""
        text = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return Reply(text, tuple(tokens), truncated=tokens[-1] not in self.stops)

    def _encode(self, prompt: Prompt, max_tokens: int) -> tuple[int, ...]:
        try:
            text = self._tokenizer.apply_chat_template(
                list(prompt.messages), tokenize=False, add_generation_prompt=True
            )
            tokens = tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        except (TemplateError, ValueError, TypeError) as error:
            raise PromptError(f"prompt {prompt.id}: theta1's chat template refuses it: {error}") from None
        limit = getattr(self.config, "max_position_embeddings", None)
        if limit is not None and len(tokens) + max_tokens > limit:
            way_out = "lower --max-tokens, or leave the prompt out" if len(tokens) < limit else "leave the prompt out"
            raise PromptError(
                f"prompt {prompt.id}: its {len(tokens)} tokens and a reply of {max_tokens} exceed the "
                f"model's context of {limit}; {way_out}"
            )
        return tokens


def _config(path: Path, trust_remote_code: bool) -> Any:
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code).get_text_config()
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise EngineError(f"{path}: its config cannot be loaded: {error}") from None


def load_tokenizer(path: Path, trust_remote_code: bool) -> Any:
    """transformers' tokenizer of a folder. Raises EngineError."""
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise EngineError(f"{path}: its tokenizer cannot be loaded: {error}") from None


def require_template(tokenizer: Any, place: Path) -> None:
    """Raises EngineError for a tokenizer without chat template."""
    if not tokenizer.chat_template:
        raise EngineError(
            f"{place}: has no chat template, so prompts cannot be put to it; put the template that the model was "
            f"trained with into chat_template.jinja in that folder"
        )
