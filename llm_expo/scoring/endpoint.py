"""A model behind an endpoint that speaks OpenAI's protocol: questions to answers, several under way at once.

Retries, backoff and waiting for a rate limit are the `openai` client's. Ours is what it lacks: to find out what the
endpoint offers, to keep every answer, not to wait eight times for one that is stuck, and to say in one line what is
wrong. Knows nothing of what is asked.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any

import httpx2
import openai

from llm_expo.errors import ScorerError
from llm_expo.scoring.answers import Answer, Answers, Question, Token
from llm_expo.scoring.scorer import Progress, unwatched

logger = logging.getLogger(__name__)

_THINKING = 4096
"""Tokens for an answer and the thought before it, for models that do not take `max_tokens`."""

_LISTS_WITHIN = 30.0
"""Seconds for the list of its models, which takes an endpoint none."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A question that the endpoint would not answer (too long, filtered), in its own words."""

    words: str


@dataclass(frozen=True, slots=True)
class Bill:
    """What all answers so far cost, those of earlier runs included.

    `uncounted` answers came without their numbers of tokens. `price` is in the unit of the prices given, None without.
    """

    answers: int
    tokens_in: int
    tokens_out: int
    uncounted: int
    price: float | None


class Endpoint:
    """A model behind an OpenAI-compatible endpoint.

    Args:
        model: as the endpoint names it.
        answers: the file (SQLite) that keeps every answer; a question that stands there is not asked again, wherever
            the endpoint has moved meanwhile.
        url: such as http://127.0.0.1:8000/v1; None takes OPENAI_BASE_URL, or OpenAI's own.
        key: None takes OPENAI_API_KEY; a server of one's own may do without.
        at_once: questions under way at the same time.
        timeout: seconds to wait for one answer; None: 120. A question without one is asked once more.
        retries: further tries after a rate limit (429), a fault of the server (5xx) or a lost connection. The client
            waits as long as the server says, up to two minutes, else 0.5 to 8 seconds.
        prices: of a million tokens in and a million tokens out.

    Raises:
        ScorerError: there is no key where one is needed, or the address is none.
    """

    def __init__(
        self,
        model: str,
        answers: Path,
        *,
        url: str | None = None,
        key: str | None = None,
        at_once: int = 8,
        timeout: float | None = None,
        retries: int = 8,
        prices: tuple[float, float] | None = None,
    ) -> None:
        self.model = model
        self._answers = answers
        self._at_once = at_once
        self._timeout = timeout = timeout or 120.0
        self._prices = prices
        self._silence = Lock()  # taken, and never given back, by the first question that is left without an answer
        self._taken: dict[int, int] = {}  # alternatives wanted -> the form in which the endpoint answered such
        url = url or os.environ.get("OPENAI_BASE_URL")
        key = (key or os.environ.get("OPENAI_API_KEY", "")).strip()
        if not key and not url:
            raise ScorerError(f"{model}: OpenAI's endpoint needs a key: set OPENAI_API_KEY, or name another address")
        if not (key.isascii() and key.isprintable()):
            raise ScorerError(f"{model}: the key in OPENAI_API_KEY holds characters that no key has")
        try:
            self._client = openai.OpenAI(
                base_url=url,
                api_key=key or "none",
                timeout=httpx2.Timeout(timeout, connect=min(timeout, 10.0)),
                max_retries=retries,
                http_client=_Client(),
            )
        except (ValueError, httpx2.InvalidURL) as error:
            raise ScorerError(f"{model}: {url!r} is no address: {error}") from None
        self._where = f"{model} at {self._client.base_url}"

    def check(self, asker: str) -> None:
        """See that the endpoint is there and takes the key, before hours of other work come to depend on it.

        Costs nothing. Where the asker has answers already, it is not tried: what is finished can be looked at without.

        Raises:
            ScorerError: it is not there, or refuses the key.
        """
        if self.kept(asker):
            return
        try:
            self._client.with_options(max_retries=0, timeout=min(self._timeout, _LISTS_WITHIN)).models.list()
        except (openai.AuthenticationError, openai.APIConnectionError) as error:
            raise self._failure(error) from None
        except (openai.OpenAIError, ValueError):
            pass  # not every server lists its models, and not every key may

    def ask(self, asker: str, questions: Sequence[Question], progress: Progress = unwatched) -> list[Answer | Refusal]:
        """The answers in order; each is kept as soon as it is there, whatever happens to the others.

        Args:
            asker: what the answers are filed under; it has to name the model, and what else they depend on.
            progress: called with the answers that there are, and those that are wanted.

        Raises:
            ScorerError: the endpoint is down, refuses the key, does not know the model, or speaks another protocol;
                or refuses every question, and has never answered one.
        """
        if not questions:
            return []
        with Answers.open(self._answers, asker) as kept:
            known: dict[str, Answer | Refusal] = {**kept.find(questions)}
            missing = {each.key: each for each in questions if each.key not in known}
            wanted = len(known) + len(missing)
            try:
                for key, answer in self._each(missing):
                    known[key] = answer
                    progress(len(known), wanted)
                    if isinstance(answer, Answer):
                        kept.add(missing[key], answer)
            except ScorerError as error:
                so_far = f"Answers kept so far: {len(kept.all())}; the same command goes on"
                raise ScorerError(f"{error}. {so_far}") from None
            refusal = next((each for each in known.values() if isinstance(each, Refusal)), None)
            if refusal is not None and not kept.all():
                raise ScorerError(f"{self._where}: refuses all that it is asked: {refusal.words}")
        return [known[question.key] for question in questions]

    def kept(self, asker: str) -> list[Answer]:
        """All answers that the asker ever got."""
        if not self._answers.exists():
            return []
        with Answers.open(self._answers, asker) as kept:
            return kept.all()

    def bill(self, asker: str) -> Bill:
        """What the asker's answers cost."""
        answers = self.kept(asker)
        tokens_in = sum(each.tokens_in or 0 for each in answers)
        tokens_out = sum(each.tokens_out or 0 for each in answers)
        price = None
        if self._prices is not None:
            price = (tokens_in * self._prices[0] + tokens_out * self._prices[1]) / 1e6
        uncounted = sum(each.tokens_in is None or each.tokens_out is None for each in answers)
        return Bill(len(answers), tokens_in, tokens_out, uncounted, price)

    # ----------------------------------------------------------------------------------------------------------------

    def _each(self, questions: Mapping[str, Question]) -> Iterator[tuple[str, Answer | Refusal]]:
        """Answers by key, as they come.

        After a failure no further question is sent, and those under way are waited for: they are paid for. The threads
        are daemons, so that an interrupt need not wait for an endpoint that hangs.
        """
        waiting: SimpleQueue[tuple[str, Question]] = SimpleQueue()
        came: SimpleQueue[tuple[str, Answer | Refusal | Exception]] = SimpleQueue()

        def work() -> None:
            with suppress(Empty):
                while True:
                    key, question = waiting.get_nowait()
                    try:
                        came.put((key, self._ask(question)))
                    except Exception as error:  # noqa: BLE001 (whatever it is, it is raised where the answers are taken)
                        came.put((key, error))
                        return

        def give_up() -> int:
            given_up = 0
            with suppress(Empty):
                while True:
                    waiting.get_nowait()
                    given_up += 1
            return given_up

        for item in questions.items():
            waiting.put(item)
        for _ in range(min(self._at_once, len(questions))):
            Thread(target=work, daemon=True).start()
        left, failure = len(questions), None
        try:
            while left:
                key, answer = came.get()
                left -= 1
                if isinstance(answer, Exception):
                    failure = failure or answer
                    left -= give_up()
                else:
                    yield key, answer
        finally:
            give_up()  # also where the answers are no longer taken
        if failure is not None:
            raise failure

    def _ask(self, question: Question) -> Answer | Refusal:
        """The answer, in the first form of asking that the endpoint takes.

        What it took once it takes again, so a refusal is then the question's own.
        """
        forms = _forms(question)
        taken = self._taken.get(question.alternatives)
        words = ""
        for place, form in enumerate(forms) if taken is None else [(taken, forms[taken])]:
            body = {"model": self.model, "messages": [_message(*each) for each in question.messages], **form}
            try:
                response = self._send(body)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                words = _words(error)
                continue
            except (openai.OpenAIError, ValueError) as error:
                raise self._failure(error) from None
            try:
                answer = _read(response.json())
            except (ValueError, LookupError, TypeError, AttributeError):
                raise ScorerError(
                    f"{self._where}: answered {_shown(response.text)}, which is no chat completion; is the address "
                    f"right? It usually ends in /v1"
                ) from None
            self._taken[question.alternatives] = place
            return answer
        return Refusal(words)

    def _send(self, body: Mapping[str, Any]) -> httpx2.Response:
        """The response; a question that was left without an answer is sent once more, and the first one is told."""
        try:
            return self._client.post("/chat/completions", body=body, cast_to=httpx2.Response)
        except _Silence:
            if self._silence.acquire(blocking=False):
                logger.warning(
                    "%s: no answer within %g s; asking once more, a question that gets none then ends the run",
                    self._where,
                    self._timeout,
                )
        return self._client.post("/chat/completions", body=body, cast_to=httpx2.Response)

    def _failure(self, error: Exception) -> ScorerError:
        """What went wrong and what to do about it, in one line."""
        words = _words(error)
        tries = _tries(error)
        match error:
            case openai.AuthenticationError() | openai.PermissionDeniedError():
                told = f"refuses the key: {words}; set OPENAI_API_KEY to one that it takes"
            case openai.NotFoundError():
                told = f"does not know the model or the address: {words}; an address usually ends in /v1"
            case openai.RateLimitError():
                told = f"refuses for its rate limit, {tries}: {words}; run it again later"
            case _Silence() if error.request.method == "GET":
                told = f"does not even list its models within {error.seconds:g} s; is it stuck?"
            case _Silence():
                told = (
                    f"did not answer a question within {error.seconds:g} s, asked twice; see whether it is stuck, or, "
                    f"where it is slow, wait longer with --judge-timeout"
                )
            case openai.APIConnectionError():
                told = f"cannot be reached, {tries}: {error.__cause__ or words}"
            case openai.APIStatusError():
                told = f"failed with status {error.status_code}, {tries}: {words}"
            case _:
                told = f"failed: {words}"
        return ScorerError(f"{self._where}: {told}")


class _Silence(openai.APITimeoutError):
    """A request that was taken, and not answered in time."""

    @property
    def seconds(self) -> float:
        return float(self.request.extensions["timeout"]["read"])


class _Client(openai.DefaultHttpxClient):
    """Raises as the `openai` client's own error, which it does not try again, what takes the whole of a timeout."""

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        try:
            return super().send(request, **options)
        except httpx2.ReadTimeout as error:
            raise _Silence(request) from error

    def __del__(self) -> None:
        self.close()  # as does the client that it replaces


def _forms(question: Question) -> list[dict[str, Any]]:
    """The ways to ask, the fullest first: with log-probabilities, without, and as reasoning models want it."""
    drawn: dict[str, Any] = {"max_tokens": question.max_tokens, "temperature": question.temperature}
    plain: list[dict[str, Any]] = [drawn, {"max_completion_tokens": max(question.max_tokens, _THINKING)}]
    if not question.alternatives:
        return plain
    return [{**drawn, "logprobs": True, "top_logprobs": question.alternatives}, *plain]


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _read(body: Any) -> Answer:
    """The answer in a chat completion; raises whatever comes where it is none."""
    choice = body["choices"][0]
    text = choice["message"].get("content") or ""
    if not isinstance(text, str):
        raise TypeError
    places = (choice.get("logprobs") or {}).get("content") or []
    tokens = tuple(
        Token(
            each["token"], tuple((other["token"], float(other["logprob"])) for other in each.get("top_logprobs") or [])
        )
        for each in places
    )
    usage = body.get("usage") or {}
    return Answer(text, tokens, usage.get("prompt_tokens"), usage.get("completion_tokens"))


def _words(error: Exception) -> str:
    """What the server said, out of whatever its kind of server wraps it in."""
    body = error.body if isinstance(error, openai.APIError) else None
    if isinstance(body, Mapping):
        return _shown(body.get("message") or body.get("detail") or body.get("error") or dict(body))
    return _shown(body or error)


def _tries(error: Exception) -> str:
    """How often it was tried: the client notes its retries in the request."""
    retries = int(error.request.headers.get("x-stainless-retry-count", 0)) if isinstance(error, openai.APIError) else 0
    return f"after {retries + 1} tries" if retries else "at the first try"


def _shown(value: object) -> str:
    text = " ".join(str(value).split())
    return repr(text if len(text) <= 200 else text[:200] + "...")
