"""A chat endpoint that is not ours: `transformers serve` on loopback, in a process of its own."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SERVE = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve"]


@contextmanager
def transformers_serve(model: Path, log: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The server's address, and its process; what it says is in `log`."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    place = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with log.open("wb") as said:
        server = subprocess.Popen(
            [*_SERVE, str(model), *place], stdout=said, stderr=said, env={**os.environ, "HF_HUB_OFFLINE": "1"}
        )
    try:
        for _ in range(240):
            assert server.poll() is None, log.read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1", server
    finally:
        server.kill()
        server.wait()
