"""The demo's objective: how positive the words of a reply are, on VADER's scale.

A toy, on purpose: it needs no model and no network, and anyone can check a score by hand. It is not a measure of
quality, and it is easily gamed. It looks words up one by one, so it sees neither negation ("not good" counts as good)
nor whether the reply answers the prompt: a bare list of kind words scores higher than any answer. Each distinct word
counts once, so repeating a word does not help, and the sum is taken per word, so length alone does not help; nothing
holds off a model that learns to gush. That is why the demo shows, beside the reward, the replies' log-probability under
the initial model and the share of distinct openings: both fall before a reader would call the replies broken.
"""

import re
from functools import cache

from llm_expo.errors import MissingExtraError

WORD = re.compile(r"\w+(?:['’-]\w+)*")
# The sum is given per ten words; ten more in the divisor keep very short replies from winning by a single word.
SCALE = 10


def score(conversations: list[list[dict[str, str]]]) -> list[float]:
    """Reward the last message of each conversation: the VADER valences (-4 to 4) of its distinct words, summed, times
    10 / (words + 10). A reply without words gets 0.0.
    """
    return [_positivity(conversation[-1]["content"]) for conversation in conversations]


def _positivity(text: str) -> float:
    words = WORD.findall(text.lower())
    lexicon = _lexicon()
    # Sorted: floating-point sums depend on their order, and the order of a set is not fixed.
    return sum(lexicon.get(word, 0.0) for word in sorted(set(words))) * SCALE / (len(words) + SCALE)


@cache
def _lexicon() -> dict[str, float]:
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError as error:
        raise MissingExtraError("vaderSentiment", "demo") from error
    lexicon: dict[str, float] = SentimentIntensityAnalyzer().lexicon
    return lexicon
