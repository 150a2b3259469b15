"""A chat endpoint that speaks OpenAI's protocol, on loopback: an HTTP server in a thread, and what shall go wrong.

Its model is a function of the test's: the last message to the text of the answer, and to the log-probabilities of what
could stand in its place.
"""

import json
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from loopback import LoopbackHandler, LoopbackServer


@dataclass
class Chat:
    """The state of the server: what it answers, what it was asked, what shall go wrong."""

    answer: Callable[[str], str] = lambda text: "A"
    likeliest: Callable[[str], dict[str, float]] | None = None  # token -> probability; None: no log-probabilities
    key: str | None = None  # None other is taken
    models: tuple[str, ...] | None = None  # None others are known
    refused: tuple[str, ...] = ()  # fields of a request
    too_long: int = 1_000_000  # characters
    body: bytes | None = None  # whatever is asked
    usage: bool = True
    failures: list[tuple[int, dict[str, str]]] = field(default_factory=list)  # for the requests to come
    cuts: int = 0  # as many connections are closed without an answer
    hang_after: int = 1_000_000  # answers; then silence
    hangs: int = 0  # as many requests are taken and not answered
    hanging: threading.Event = field(default_factory=threading.Event)  # set when it comes to that
    requests: list[dict[str, Any]] = field(default_factory=list)  # those that were answered
    tries: int = 0

    def asked(self) -> list[str]:
        """The last message of every request that was answered."""
        return [each["messages"][-1]["content"] for each in self.requests]


class ChatServer(LoopbackServer):
    def __init__(self, chat: Chat) -> None:
        super().__init__(Handler)
        self.chat = chat
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"{super().url}/v1"


class Handler(LoopbackHandler):
    server: ChatServer

    def do_GET(self) -> None:
        if not self.server.chat.hang_after:
            return self.hang()
        if self.refused_key():
            return None
        if self.path == "/v1/models":
            return self.json(200, {"object": "list", "data": []})
        return self.error(404, "Not Found")

    def do_POST(self) -> None:
        chat = self.server.chat
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            chat.tries += 1
            failure = chat.failures.pop(0) if chat.failures else None
            cut, hang = chat.cuts > 0, chat.hangs > 0
            chat.cuts -= cut
            chat.hangs -= hang
        if cut:
            self.close_connection = True
            return None
        if failure:
            return self.error(failure[0], "try again", failure[1])
        if self.refused_key():
            return None
        if chat.body is not None:
            return self.reply(200, chat.body, {"Content-Type": "application/json"})
        if self.path != "/v1/chat/completions":
            return self.error(404, "Not Found")
        if chat.models is not None and request["model"] not in chat.models:
            return self.error(404, f"The model `{request['model']}` does not exist.")
        if named := [name for name in chat.refused if name in request]:
            return self.error(400, f"Unsupported parameter: '{named[0]}'")
        text = request["messages"][-1]["content"]
        if len(text) > chat.too_long:
            return self.error(400, "This model's maximum context length is exceeded.")
        with self.server.lock:
            hang = hang or len(chat.requests) >= chat.hang_after
            if not hang:
                chat.requests.append(request)
        if hang:
            return self.hang()
        answered = chat.answer(text)
        choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": answered}}
        if chat.likeliest is not None and request.get("logprobs"):
            alternatives = [{"token": each, "logprob": math.log(p)} for each, p in chat.likeliest(text).items()]
            choice["logprobs"] = {"content": [{"token": answered, "top_logprobs": alternatives}]}
        usage = {"prompt_tokens": len(text.split()), "completion_tokens": 1} if chat.usage else None
        return self.json(200, {"object": "chat.completion", "choices": [choice], "usage": usage})

    def hang(self) -> None:
        self.server.chat.hanging.set()
        super().hang()

    def refused_key(self) -> bool:
        refused = self.server.chat.key not in (None, self.headers["Authorization"].removeprefix("Bearer "))
        if refused:
            self.error(401, "Incorrect API key provided.")
        return refused

    def error(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        self.json(status, {"error": {"message": message}}, headers)
