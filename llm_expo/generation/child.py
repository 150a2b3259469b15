"""A process under an interpreter of its own, which answers questions: one line of JSON for each, in turn.

For libraries that cannot be installed beside ours, and for memory that only a process's end gives back. Knows nothing
of what it is asked. The child reads standard input and answers on standard output; it has to end when its input does,
and is killed, with all that it started, if it does not. What it has to say otherwise is in its log.
"""

import json
import os
import re
import select
import signal
import subprocess
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from llm_expo.errors import EngineError

_PATIENCE = 15.0
"""Seconds that a child has to end by itself when it is no longer wanted."""

_LONGEST = 400
"""Characters of a reason that are shown; the log has the rest."""


class Child:
    """A running child. Whatever goes wrong with it ends it.

    Args:
        command: its interpreter and what that is to run.
        environment: variables that it has beside ours.
        log: the file that its standard error goes to, and nothing of an earlier child's.
        name: what errors call it.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path, name: str) -> None:
        self._log, self._name = log, name
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as errors:
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env=_inherited() | dict(environment),
                    start_new_session=True,  # a group to kill; and no interrupt from the keyboard, which is for us
                )
            except OSError as error:
                raise EngineError(f"{name}: {command[0]} cannot be run: {error.strerror}") from None
        self.close = weakref.finalize(self, _end, self._process, _PATIENCE)

    def ask(self, question: Mapping[str, object]) -> Any:
        """The child's answer. EngineError with its reason if it has none, or with the log's last line if it dies."""
        assert self._process.stdin is not None and self._process.stdout is not None
        line = b""
        try:
            # A child that is dead by now is found out by its silence.
            with suppress(BrokenPipeError):
                self._process.stdin.write(json.dumps(question).encode() + b"\n")
                self._process.stdin.flush()
            line = self._process.stdout.readline()
        finally:
            if not line.endswith(b"\n"):  # dead, or we are interrupted, and the answer would be taken for the next one
                self._kill()
        if not line.endswith(b"\n"):
            raise EngineError(f"{self._name} {_end_of(self._process.wait())}: {_last(self._log)}; its log: {self._log}")
        answer = json.loads(line)
        if "error" in answer:
            self._kill()  # who knows in what state it is
            raise EngineError(f"{self._name}: {_short(answer['error'])}; its log: {self._log}")
        return answer["answer"]

    def _kill(self) -> None:
        self.close.detach()
        _end(self._process, 0)


def question(command: Sequence[str], name: str) -> Any:
    """What a short-lived child answers, unasked, with the last line that it prints."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=_inherited())
    except OSError as error:
        raise EngineError(f"{name}: {command[0]} cannot be run: {error.strerror}") from None
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise EngineError(f"{name} {_end_of(done.returncode)}: {_reason(done.stderr)}") from None
    if "error" in answer:
        raise EngineError(f"{name}: {_short(answer['error'])}")
    return answer["answer"]


def _inherited() -> dict[str, str]:
    """Our environment, without what would lead another interpreter to our packages."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def _end(process: "subprocess.Popen[bytes]", patience: float) -> None:
    assert process.stdin is not None and process.stdout is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    # An answer nobody waits for comes before the end.
    while patience and select.select([process.stdout], [], [], patience)[0] and os.read(process.stdout.fileno(), 65536):
        pass
    # The group's leader has not been waited for, so that the group is still the child's.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def _end_of(status: int) -> str:
    if status == -signal.SIGKILL:
        return "was killed (by the system, if memory ran out)"
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def _last(log: Path) -> str:
    return _reason(log.read_text(errors="replace"))


def _reason(said: str) -> str:
    """The last line that names an error, else the last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"\b\w*(Error|Exception)\b: ", line)]
    return _short((errors or lines or ["it said nothing"])[-1])


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"
