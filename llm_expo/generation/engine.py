"""The seam between search and text: what an engine is asked and what it answers. No engine lives here."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from llm_expo.generation.prompts import Prompt

Json = str | int | float | bool | None

Text = tuple[Sequence[int], Sequence[int]]
"""Token ids of a prompt and of a reply."""


@dataclass(frozen=True)
class Request:
    """One reply that is wanted to an encoded prompt.

    Under one seed, the same prompt id with the same `noise` label meets the same noise.
    """

    prompt: str
    tokens: tuple[int, ...]
    noise: str


@dataclass(frozen=True)
class Reply:
    """What the model wrote: token ids with the end-of-sequence token if it came, and the text without special tokens.

    `truncated` says that the token limit ended it.
    """

    text: str
    tokens: tuple[int, ...]
    truncated: bool


class Engine(Protocol):
    """Makes replies of theta(alpha).

    A prompt is encoded once, when a study takes it up: a template may hold today's date, and every alpha and every
    resumed run has to be asked the same.
    """

    @property
    def settings(self) -> Mapping[str, Json]:
        """What the replies depend on, by the names that the command line has: a study is held to them."""

    @property
    def environment(self) -> Mapping[str, Json]:
        """What may change the replies' last bits (versions, device): a study records it."""

    def encode(self, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
        """Token ids of each prompt in theta1's chat template. Raises PromptError for one too long for the context."""

    @property
    def special_tokens(self) -> Mapping[int, str]:
        """Id and text of each special token, those that end a reply included."""

    def move(self, alpha: float) -> None:
        """Load the model if need be and set its weights to theta(alpha), as the next call for that alpha would do."""

    def rest(self) -> None:
        """Give the device's memory back until the next call, so that a scorer may have it."""

    def generate(self, alpha: float, batches: Iterable[Sequence[Request]]) -> Iterator[list[Reply]]:
        """The replies of theta(alpha), batch by batch, in the order asked."""

    def log_probabilities(self, alpha: float, batches: Iterable[Sequence[Text]]) -> Iterator[list[float]]:
        """Mean log-probability per token of the second of each (prompt, reply) under theta(alpha).

        In nats, at temperature 1, without filters.
        """
