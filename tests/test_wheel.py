"""What is shipped: the wheel holds the data that the package needs, and nothing that it does not."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_wheel_is_whole(tmp_path):
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(root)]
    subprocess.run(command, check=True)
    [wheel] = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 8e6
    assert "-cp311-abi3-" in wheel.name, "one wheel for every Python from 3.11 on"
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in (
        "llm_expo/py.typed",
        "llm_expo/catalogue/pairs.toml",
        "llm_expo/generation/prompts.jsonl",
        "llm_expo/demo/adapter/adapter_config.json",
        "llm_expo/demo/adapter/adapter_model.safetensors",
        "llm_expo/weights/_kernel.abi3.so",
    ):
        assert wanted in names
    assert all(name.startswith(("llm_expo/", "llm_expo-", "llm_expo-0.1.0.dist-info")) for name in names)
