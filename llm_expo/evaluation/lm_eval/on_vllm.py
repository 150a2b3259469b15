"""lm-evaluation-harness's own model on vLLM, under the interpreter that the user names; `vllm_child.py` runs there.

vLLM pins versions that exclude ours, so lm-eval is there, too. It is the model alone that is there: tasks, items and
scores are ours to ask, keep and pair, whatever answers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lm_eval.api.model import LM

from llm_expo.errors import EngineError
from llm_expo.evaluation.lm_eval import harness
from llm_expo.generation.child import Child, question
from llm_expo.generation.moving import folder_at
from llm_expo.generation.vllm_engine import VARIABLES, vllm_name, vllm_options
from llm_expo.generation.whole import Whole

_CHILD = Path(__file__).with_name("vllm_child.py")


@dataclass(frozen=True)
class OnVllm:
    """How models are run on vLLM.

    python: the interpreter under which vLLM and lm-eval are installed.
    tensor_parallel: over how many devices a model is cut.
    memory: the share of a device's memory that vLLM takes, as its gpu_memory_utilization; None is vLLM's own.
    log: the file for what vLLM says.
    """

    python: Path
    tensor_parallel: int
    memory: float | None
    log: Path

    @cached_property
    def environment(self) -> dict[str, Any]:
        """The versions there. Raises EngineError where vLLM is missing, or lm-eval is not the same as here."""
        name = vllm_name(self.python)
        facts: dict[str, Any] = question([str(self.python), str(_CHILD), "facts"], name)
        if facts["lm_eval"] != harness.VERSION:
            raise EngineError(
                f"{name}: lm-eval {harness.VERSION} is needed there, as here, and it has {facts['lm_eval'] or 'none'}: "
                f"{self.python} -m pip install lm-eval=={harness.VERSION}"
            )
        return {**facts, "tensor parallel": self.tensor_parallel}

    @contextmanager
    def opened(self, whole: Whole, batch_size: int) -> Iterator[LM]:
        """The model as lm-eval asks it, while it is wanted. Raises EngineError where vLLM cannot load it."""
        aligned = whole.direction.aligned
        child = Child([str(self.python), str(_CHILD)], VARIABLES, self.log, vllm_name(self.python))
        try:
            # What is whole is loaded in another type, and need not be written in it.
            written = "keep" if aligned.is_whole else whole.dtype
            with folder_at(0.0, whole.direction, whole.scratch, written) as folder:
                child.ask(
                    {
                        "model": str(folder),
                        "tokenizer": str(aligned.tokenizer_folder),
                        "options": vllm_options(
                            aligned, whole.dtype, self.tensor_parallel, self.memory, whole.trust_remote_code
                        ),
                        "batch_size": batch_size,
                    }
                )
            yield harness.Elsewhere(child.ask, batch_size)
        finally:
            child.close()
