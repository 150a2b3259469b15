"""JSON files of evaluation, gzipped or not, whole or not there at all. Knows nothing of what they hold."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

from llm_expo.errors import EvaluationError


def load_json(path: Path) -> Any:
    """Raises EvaluationError, naming the file."""
    try:
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
        return json.loads(raw)
    except FileNotFoundError:
        raise EvaluationError(f"{path}: no such file") from None
    except (OSError, EOFError) as error:
        raise EvaluationError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"{path}: not JSON: {error}") from None


def save_json(path: Path, value: Any) -> None:
    """Replaces the file at once: whoever reads it finds the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
