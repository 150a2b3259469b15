"""What hints at the wrong pair: reading tokenizers. The situations are in test_situations.py."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from llm_expo.weights import Direction

# Linux counts into a child's peak what its parent held; a process's own account begins with its program.
APPLY = """
import sys
from pathlib import Path
from llm_expo.cli import main
status = main(["apply", *sys.argv[1:], "--alpha", "0.5"])
print(*(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
sys.exit(status)
"""


@pytest.mark.parametrize("first", ["vocab", "merges"])
def test_merges_are_passed_over_and_nothing_else(pair: tuple[Path, Path], first: str) -> None:
    """Tokens that look like the end of the merges, or their beginning, are read as tokens, wherever they stand."""
    odd = ["]", "merges", '"merges": [', '\\"merges":[', "[", "]]", '"', "\\", "\\\\", '\\"', "é", "🙂", "\n"]
    merges: list[object] = [[one, other] for one in odd for other in odd]
    merges += [f"{one} {other}" for one in odd for other in odd]
    for place, folder in enumerate(pair):
        vocabulary = {token: number + place for number, token in enumerate(odd)}
        model = {"vocab": vocabulary, "merges": merges} if first == "vocab" else {"merges": merges, "vocab": vocabulary}
        added = [{"content": "<end>", "id": 100 + place}]
        (folder / "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": added}))
    assert f"{len(odd) + 1} tokens have other ids" in Direction.open(*pair).warnings()[1]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_with_two_large_tokenizers(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Of the size and form of Gemma's: 31 MB, a vocabulary of 256k, letters of 4 bytes in Python."""
    chance = random.Random(0)
    words = [f"▁{''.join(chance.choices('abcdefghijklmnopqrstuvwxyzé中🙂', k=5))}{i:x}" for i in range(256_000)]
    merges = [[chance.choice(words), chance.choice(words)] for _ in range(670_000)]
    for folder in pair:
        content = {"model": {"type": "BPE", "vocab": {word: i for i, word in enumerate(words)}, "merges": merges}}
        raw = json.dumps(content, ensure_ascii=False).encode()
        assert len(raw) > 31e6
        (folder / "tokenizer.json").write_bytes(raw)
        words[:2] = words[1::-1]
    command = [sys.executable, "-c", APPLY, *map(str, pair), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert "2 tokens have other ids" in done.stderr
    assert int(done.stdout.split()[-1]) * 1024 < 300e6
