"""Interpreters with a vLLM of a few lines, or without one, for tests of what runs under another Python."""

import sys
from pathlib import Path

FAKE_VLLM = Path(__file__).with_name("fake_vllm")


def interpreter(folder: Path, *lines: str) -> Path:
    """A Python of which `lines` of shell are run first."""
    path = folder / "python"
    path.write_text("\n".join(["#!/bin/sh", *lines, f'exec "{sys.executable}" "$@"', ""]))
    path.chmod(0o755)
    return path


def interpreter_with(folder: Path, *packages: Path) -> Path:
    """A Python that sees `packages` before its own."""
    return interpreter(folder, f'PYTHONPATH="{":".join(map(str, packages))}"; export PYTHONPATH')
