"""lm-evaluation-harness's own model on vLLM, in a process of its own: answers the requests that tasks make.

`on_vllm.py` runs this file under the interpreter that the user names, where vLLM and lm-eval are installed and llm_expo
is not: it imports nothing of ours, and takes from the engine's child (generation/vllm_child.py), by its place, how
questions come and go. The tasks themselves stay on the other side.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

_SHARED = Path(__file__).parents[2] / "generation" / "vllm_child.py"


def _shared() -> Any:
    spec = importlib.util.spec_from_file_location("shared", _SHARED)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


shared = _shared()


def facts() -> dict[str, str | None]:
    """What may change the answers' last bits; lm-eval is None where it is missing."""
    there = importlib.util.find_spec("lm_eval") is not None
    return {**shared.facts(), "lm_eval": importlib.metadata.version("lm_eval") if there else None}


def _version(package: str, version: Callable[[str], str] = importlib.metadata.version) -> str:
    return version(importlib.metadata.packages_distributions()["vllm"][0] if package == "vllm" else package)


class Model:
    """lm-eval's `--model vllm`.

    Args:
        model, tokenizer: folders.
        options: of vLLM's own.
        batch_size: how many requests vLLM has at once.
    """

    def __init__(self, model: str, tokenizer: str, options: dict[str, Any], batch_size: int) -> None:
        from vllm import LLM  # noqa: F401 (all of vLLM, which looks for its version, too)

        options = shared.fitted(options)
        # lm-eval asks for the version of "vllm", and a build for CPUs may go by another name.
        with mock.patch("importlib.metadata.version", _version):
            from lm_eval.models.vllm_causallms import VLLM

        self._lm = VLLM(model, tokenizer=tokenizer, batch_size=batch_size, **options)
        self._lm._max_length = None  # it would take our -1 for a length; without one, it asks vLLM what -1 came to

    def answer(self, kind: str, batch: list[list[Any]]) -> list[Any]:
        """lm-eval's answers to requests of one kind, each given as its arguments."""
        from lm_eval.api.instance import Instance

        if kind == "generate_until":
            for _, settings in batch:
                # Greedy, as on transformers and as lm-eval says; 0.4.13 forgets it here, and vLLM's own default is 1.
                if not settings.get("do_sample"):
                    settings.setdefault("temperature", 0.0)
        requests = [Instance(kind, {}, tuple(arguments), 0) for arguments in batch]
        answers: list[Any] = getattr(self._lm, kind)(requests, disable_tqdm=True)
        return answers

    def template(self, history: list[dict[str, str]], prompt: bool) -> str:
        """Messages through the chat template."""
        text: str = self._lm.apply_chat_template(history, add_generation_prompt=prompt)
        return text


if __name__ == "__main__":
    shared.main(Model, facts)
