"""The seam between search and text: what an engine is asked and what it answers. No engine lives here."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from llm_expo.generation.prompts import Prompt

Json = str | int | float | bool | None


@dataclass(frozen=True)
class Request:
    """One reply that is wanted. Under one seed, the same prompt with the same `noise` label meets the same noise."""

    prompt: Prompt
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
    """Makes replies of theta(alpha)."""

    @property
    def settings(self) -> Mapping[str, Json]:
        """What the replies depend on, by the names that the command line has: a study is held to them."""

    @property
    def environment(self) -> Mapping[str, Json]:
        """What may change the replies' last bits (versions, device): a study records it."""

    def prompt_lengths(self, prompts: Sequence[Prompt]) -> list[int]:
        """Tokens of each prompt in theta1's chat template. Raises PromptError for one that does not fit the context."""

    def generate(self, alpha: float, batches: Iterable[Sequence[Request]]) -> Iterator[list[Reply]]:
        """The replies of theta(alpha), batch by batch, in the order asked."""

    def log_probabilities(
        self, alpha: float, batches: Iterable[Sequence[tuple[Prompt, Sequence[int]]]]
    ) -> Iterator[list[float]]:
        """Mean log-probability per token of given replies under theta(alpha): nats, temperature 1, no filters."""
