"""Has replies made, read and scored, and kept in the study before they count. Knows no order of things.

All of it begins where an earlier run left off. Batches follow from what is asked, so that a resumed run asks the engine
for the same ones: an engine's last bits may depend on them.
"""

import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import TypeVar

from llm_expo.generation import Engine, Reply, Request
from llm_expo.generation.engine import Text
from llm_expo.scoring import Comparer, Conversation, Resting, Scorer, rewards
from llm_expo.search.events import Done, Event
from llm_expo.search.rounds import THETA1
from llm_expo.search.study import Enrolled, Part, Study

A = TypeVar("A")


class Work:
    """An engine and a study, and `watch`, which is told of every batch.

    With `turns`, engine and scorers have the device one after the other.
    """

    def __init__(
        self, study: Study, engine: Engine, batch_size: int, watch: Callable[[Event], None], turns: bool = False
    ) -> None:
        self.study = study
        self.engine = engine
        self.watch = watch
        self._batch_size = batch_size
        self._turns = turns
        self.moves = self.turns = 0
        """What an uninterrupted search would have counted by now; earlier runs may have made some, or all of them."""
        self._asked: set[tuple[object, ...]] = set()
        self._counted_at: float | None = None
        self._counted_rest = False
        self._at: float | None = None
        self._leaving: float | None = None  # seconds it took the engine to leave the device, until it comes back

    def answer(self, alpha: float, asked: Sequence[Enrolled], part: Part) -> Generator[dict[str, Reply], None, None]:
        """The replies of theta(alpha) by prompt id, batch by batch; whoever has seen enough stops asking."""
        self._count(alpha, ((alpha, each.prompt.id) for each in asked))
        held = self.study.replies(alpha)
        batches = _batches(asked, self._batch_size)
        missing = [[each for each in batch if each.prompt.id not in held] for batch in batches]
        # Shared noise ties the alphas of the search together; the confirmation is to be independent of it.
        noise = "search" if part == "search" else f"confirm {alpha!r}"
        requests = ([Request(each.prompt.id, each.tokens, noise) for each in batch] for batch in missing if batch)
        if any(missing):
            self.watch(Done("generate", part, alpha, 0, sum(map(len, missing)), 0, 0.0))
            self._move(alpha)
        made = self.engine.generate(alpha, requests)
        done, tokens, total, start = 0, 0, sum(map(len, missing)), time.monotonic()
        since = start
        for batch, wanted in zip(batches, missing, strict=True):
            if wanted:
                replies = next(made)
                now = time.monotonic()
                self.study.add_replies(alpha, wanted, replies, now - since)
                held |= {each.prompt.id: reply for each, reply in zip(wanted, replies, strict=True)}
                done, since = done + len(wanted), now
                tokens += sum(len(reply.tokens) for reply in replies)
                self.watch(Done("generate", part, alpha, done, total, tokens, now - start))
            yield {each.prompt.id: held[each.prompt.id] for each in batch}

    def answered(self, alpha: float, asked: Sequence[Enrolled], part: Part) -> dict[str, Reply]:
        """All of them."""
        return {prompt: reply for batch in self.answer(alpha, asked, part) for prompt, reply in batch.items()}

    def read(
        self, under: float, asked: Mapping[float, Sequence[Enrolled]], part: Part
    ) -> dict[float, dict[str, float]]:
        """The log-probability under theta(under) of the replies that there are, by alpha and prompt id.

        All in one call, which an engine may work on at once.
        """
        found: dict[float, dict[str, float]] = {}
        batches: list[tuple[float, Sequence[Enrolled], list[Text]]] = []
        for alpha, enrolled in asked.items():
            held, replies = self.study.log_probabilities(alpha, under), self.study.replies(alpha)
            there = [each for each in enrolled if each.prompt.id in replies]
            self._count(under, ((alpha, under, each.prompt.id) for each in there))
            found[alpha] = {each.prompt.id: held[each.prompt.id] for each in there if each.prompt.id in held}
            missing = [each for each in there if each.prompt.id not in held]
            for batch in _batches(missing, self._batch_size):
                batches.append((alpha, batch, [(each.tokens, replies[each.prompt.id].tokens) for each in batch]))
        if not batches:
            return found
        total = sum(len(batch) for _, batch, _ in batches)
        whose = next(iter(asked)) if len(asked) == 1 else None
        self.watch(Done("read", part, whose, 0, total, 0, 0.0))
        self._move(under)
        done, start = 0, time.monotonic()
        since = start
        read = self.engine.log_probabilities(under, [texts for *_, texts in batches])
        for (alpha, batch, _), values in zip(batches, read, strict=True):
            now, ids = time.monotonic(), [each.prompt.id for each in batch]
            self.study.add_log_probabilities(alpha, under, ids, values, now - since)
            found[alpha] |= zip(ids, values, strict=True)
            done, since = done + len(batch), now
            self.watch(Done("read", part, whose, done, total, 0, now - start))
        return found

    def score(self, scorer: Scorer | Comparer, asked: Mapping[float, Sequence[Enrolled]], part: Part) -> None:
        """See to the rewards of the replies that there are, all in one call: a scorer knows best what goes together.

        A Comparer holds them against theta1's, which have to be there.
        """
        places: list[tuple[float, str]] = []
        conversations: list[Conversation] = []
        for alpha, enrolled in asked.items():
            replies, held = self.study.replies(alpha), self.study.rewards(scorer.name, alpha)
            for each in enrolled:
                prompt = each.prompt.id
                if prompt in replies and prompt not in held:
                    reply = {"role": "assistant", "content": replies[prompt].text}
                    places.append((alpha, prompt))
                    conversations.append([*each.prompt.messages, reply])
        if self._turns:
            self._counted_at, self._counted_rest = None, True
        if not places:
            return
        baselines = None
        if isinstance(scorer, Comparer):
            theta1 = self.study.replies(THETA1)
            baselines = [theta1[prompt].text for _, prompt in places]
        if self._turns:
            start = time.monotonic()
            self.engine.rest()
            self._at, self._leaving = None, time.monotonic() - start
        self.watch(Done("score", part, None, 0, len(places), 0, 0.0))
        start = time.monotonic()

        def progress(done: int, of: int) -> None:
            if done < of:
                self.watch(
                    Done("score", part, None, len(places) * done // of, len(places), 0, time.monotonic() - start)
                )

        values = rewards(scorer, conversations, baselines, progress)
        if self._turns and isinstance(scorer, Resting):
            scorer.rest()
        seconds = time.monotonic() - start
        self.study.add_rewards(
            scorer.name, [(*place, value) for place, value in zip(places, values, strict=True)], seconds
        )
        self.watch(Done("score", part, None, len(places), len(places), 0, seconds))

    def _count(self, at: float, asked: Iterable[tuple[object, ...]]) -> None:
        """Count the move, or the turn, that what is asked takes, unless all of it was asked before."""
        new = set(asked) - self._asked
        self._asked |= new
        if not new or at == self._counted_at:
            return
        if self._counted_rest:
            self.turns += 1
        else:
            self.moves += 1
        self._counted_at, self._counted_rest = at, False

    def _move(self, alpha: float) -> None:
        if alpha == self._at:
            return
        start = time.monotonic()
        self.engine.move(alpha)
        seconds = time.monotonic() - start
        if self._leaving is None:
            self.study.add_move(seconds)
        else:
            self.study.add_turn(self._leaving + seconds)
        self._at, self._leaving = alpha, None


def _batches(items: Sequence[A], size: int) -> list[Sequence[A]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
