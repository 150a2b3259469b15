"""Reading files that others made: regular files only, exact byte counts, strict JSON, one-line errors.

Knows nothing of checkpoints or tensors. Everything here raises CheckpointError and nothing else.
"""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

from llm_expo.errors import CheckpointError

# The safetensors format's own limit for a header. A JSON file beside it has no business being larger.
LARGEST_JSON = 100_000_000


def shown(name: object) -> str:
    """A name out of a file, as it may stand in a one-line message: printable and of bounded length."""
    text = str(name)
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= 200 else f"{text[:197]}..."


def reason(error: OSError) -> str:
    """What the operating system says, without the error number and the path."""
    return (error.strerror or str(error)).lower()


def open_regular(path: Path) -> int:
    """Open a regular file for reading and return its descriptor; links are followed, pipes and devices refused."""
    try:
        # Without O_NONBLOCK, opening a pipe would wait for its writer for ever.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        broken = " (a broken link)" if isinstance(error, FileNotFoundError) and path.is_symlink() else ""
        raise CheckpointError(f"{shown(path)}: {reason(error)}{broken}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise CheckpointError(f"{shown(path)}: is not a regular file")
    return fd


def read_exactly(fd: int, view: memoryview, offset: int, path: Path) -> None:
    """Fill `view` (bytes) from `offset` on; `path` is for the message when the file ends early."""
    done = 0
    try:
        while done < len(view):
            count = os.preadv(fd, [view[done:]], offset + done)
            if count == 0:
                raise CheckpointError(f"{shown(path)}: ends at byte {offset + done}, where more was expected")
            done += count
    except OSError as error:
        raise CheckpointError(f"{shown(path)}: {reason(error)}") from error


def read_bytes(path: Path, limit: int = LARGEST_JSON) -> bytes:
    """A whole small file; one of more than `limit` bytes is refused before it is read."""
    fd = open_regular(path)
    try:
        size = os.fstat(fd).st_size
        if size > limit:
            raise CheckpointError(f"{shown(path)}: {size} bytes is more than the {limit} that such a file may have")
        content = bytearray(size)
        read_exactly(fd, memoryview(content), 0, path)
        return bytes(content)
    finally:
        os.close(fd)


def parse_json(raw: bytes, where: str) -> dict[str, object]:
    """A JSON object, strictly: UTF-8, no name twice, no NaN or Infinity, no lone surrogates.

    `where` names the source in the message, such as "model.safetensors: the header".
    """

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) < len(pairs):
            seen: set[str] = set()
            for name, _ in pairs:
                if name in seen:
                    raise CheckpointError(f'{where} names "{shown(name)}" twice')
                seen.add(name)
        return found

    def refuse_constant(text: str) -> object:
        raise ValueError(text)

    parsed = _parsed(raw, where, unique, refuse_constant)
    if b"\\u" in raw:
        try:
            json.dumps(parsed, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise CheckpointError(f"{where} is not valid JSON: it holds half of a surrogate pair") from error
    return parsed


def json_or_nothing(path: Path) -> dict[str, object]:
    """The JSON object in a file that need not be there; empty where there is none that can be read."""
    try:
        return parse_json(read_bytes(path), path.name)
    except CheckpointError:
        return {}


def parse_settings(raw: bytes, where: str) -> dict[str, object]:
    """A JSON object as Python's json module reads it, and so transformers: of a name that stands there twice the last
    value counts, and NaN and Infinity are numbers (Mamba 2's config.json holds Infinity).
    """
    return _parsed(raw, where, None, None)


def _parsed(
    raw: bytes,
    where: str,
    pairs_hook: Callable[[list[tuple[str, object]]], object] | None,
    constant_hook: Callable[[str], object] | None,
) -> dict[str, object]:
    try:
        # Decoding first: json.loads would take UTF-16 as well.
        parsed = json.loads(raw.decode(), object_pairs_hook=pairs_hook, parse_constant=constant_hook)
    except RecursionError:
        # `from None`: the chain of a RecursionError is a thousand frames of nothing.
        raise CheckpointError(f"{where} is not valid JSON: it is nested too deeply") from None
    except ValueError as error:
        detail = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise CheckpointError(f"{where} is not valid JSON: {detail}") from error
    if not isinstance(parsed, dict):
        raise CheckpointError(f"{where} is not a JSON object")
    return parsed
