"""Which engine makes the replies, as the command line names it. Loads the one asked for, and no other."""

from pathlib import Path
from typing import Literal

from llm_expo.errors import EngineError
from llm_expo.generation.engine import Engine
from llm_expo.generation.sampling import Sampling
from llm_expo.weights import Direction, OutputDtype

On = Literal["transformers", "vllm"]


def engine_from(
    on: On,
    direction: Direction,
    sampling: Sampling,
    *,
    device: str | None = None,
    dtype: OutputDtype = "keep",
    low_memory: bool = False,
    scratch: Path | None = None,
    trust_remote_code: bool = False,
    vllm_python: Path | None = None,
    tensor_parallel: int | None = None,
    device_memory: float | None = None,
) -> Engine:
    """The engine that `--on` names; `scratch` is a folder of the study's own.

    Raises EngineError for an option that is the other engine's, and what the engine raises.
    """
    theirs: dict[str, object]
    if on == "transformers":
        theirs = {"--vllm-python": vllm_python, "--tensor-parallel": tensor_parallel, "--device-memory": device_memory}
    else:
        theirs = {"--device": device, "--low-memory": low_memory or None}
    for option, value in theirs.items():
        if value is not None:
            raise EngineError(f"{option} is not for --on {on}; leave it out")
    if on == "transformers":
        from llm_expo.generation.transformers_engine import TransformersEngine

        return TransformersEngine(
            direction,
            sampling,
            device=device,
            dtype=dtype,
            low_memory=low_memory,
            scratch=scratch,
            trust_remote_code=trust_remote_code,
        )
    if vllm_python is None:
        raise EngineError("--on vllm needs --vllm-python PATH, the Python under which vLLM is installed")
    from llm_expo.generation.vllm_engine import VllmEngine

    return VllmEngine(
        direction,
        sampling,
        python=vllm_python,
        tensor_parallel=tensor_parallel or 1,
        memory=device_memory,
        dtype=dtype,
        scratch=scratch,
        log=None if scratch is None else scratch.parent / "vllm.log",
        trust_remote_code=trust_remote_code,
    )
