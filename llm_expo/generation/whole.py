"""One whole model with its tokenizer, for those that ask it in their own way, such as a benchmark harness."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from llm_expo.checkpoints import fingerprint
from llm_expo.generation.engine import Json
from llm_expo.generation.moving import Device, OnDisk, Still
from llm_expo.generation.vocabulary import load_tokenizer
from llm_expo.weights import Direction, OutputDtype


@dataclass(frozen=True)
class Whole:
    """theta1 of `direction`: a model alone, or what an adapter or a difference makes of theta0 (`Direction.alone`).

    dtype: what it is rounded to, and computed in; "keep" is its own type.
    scratch: the folder in which an adapter or a difference is written whole; a temporary one if None.
    """

    direction: Direction
    device: Device
    dtype: OutputDtype = "keep"
    scratch: Path | None = None
    trust_remote_code: bool = False

    @cached_property
    def settings(self) -> dict[str, Json]:
        """What its answers depend on: weights, their type, vocabulary and chat template. Loads no weights."""
        told = repr((self.tokenizer.chat_template, sorted(self.tokenizer.get_vocab().items()))).encode()
        return {
            "theta0": fingerprint(self.direction.initial),
            "theta1": fingerprint(self.direction.aligned),
            "dtype": self.dtype,
            "tokenizer and template": hashlib.sha256(told).hexdigest()[:16],
        }

    @cached_property
    def tokenizer(self) -> Any:
        """transformers' tokenizer of theta1, with or without a chat template. Raises EngineError."""
        transformers_logging.set_verbosity_error()
        return load_tokenizer(self.direction.aligned.tokenizer_folder, self.trust_remote_code)

    def load(self) -> PreTrainedModel:
        """The model on its device, in evaluation mode.

        Raises EngineError where transformers cannot load it, or it does not fit on the device.
        """
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        if self.direction.is_alone:
            return Still(self.direction, self.device, self.trust_remote_code, self.dtype).at(0.0)
        return OnDisk(self.direction, self.device, self.trust_remote_code, self.scratch, self.dtype).at(0.0)
