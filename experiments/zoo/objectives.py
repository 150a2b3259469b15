"""What the zoo's models are trained towards and measured by: functions of a reply's words, so that the true reward is
known exactly. They pull apart: what is positive is said in short words.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from llm_expo.demo import positivity
from llm_expo.scoring import Conversation

Score = Callable[[list[Conversation]], list[float]]

USUAL_LETTERS = 5.0


@dataclass(frozen=True, slots=True)
class Objective:
    """`margin`: by how much the better of two replies has to be better to train on them; of reward."""

    score: Score
    margin: float


def long_words(conversations: list[Conversation]) -> list[float]:
    """Reward the last message of each conversation: the mean length of its words in letters, as if ten words of usual
    length stood there, too, so that a short reply does not win by one long word. A word without end still does.
    """
    return [_length_of_words(conversation[-1]["content"]) for conversation in conversations]


def _length_of_words(text: str) -> float:
    words = positivity.WORD.findall(text)
    return (sum(map(len, words)) + positivity.SCALE * USUAL_LETTERS) / (len(words) + positivity.SCALE)


OBJECTIVES: Mapping[str, Objective] = {
    "positivity": Objective(positivity.score, margin=0.5),
    "long-words": Objective(long_words, margin=0.25),
}
