"""Runs a command and says what it took; brings files into the page cache, or out of it. Linux only.

Knows nothing of checkpoints. It imports nothing large, and neither may the scripts that use it: the kernel counts the
memory that a process had before its exec, which is its parent's, into its peak.
"""

import ctypes
import json
import mmap
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LIBC = ctypes.CDLL(None, use_errno=True)
_LOWEST_BIT = bytes(value & 1 for value in range(256))  # a table for bytes.translate
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one process from its start to its end, and until the files that it wrote are synced."""

    wall: float  # seconds
    cpu: float  # seconds, user and system
    peak: int  # bytes resident, pages of mapped files included


@dataclass(frozen=True, slots=True)
class Spread:
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        found = list(values)
        return cls(statistics.median(found), min(found), max(found))

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g}..{self.high:.3g})"


def run(command: Sequence[str | Path], out: Path | None = None, status: int = 0) -> Cost:
    """Run `command` alone; ends this script unless it ends in `status`.

    out: the folder that it writes. Its files are synced within the time measured, since `llm-expo apply` syncs its own
    and the others do not. On a tmpfs that does nothing.
    """
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, env=os.environ | OFFLINE
        )
        _, ended, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(ended)
        for path in files(out) if out is not None else ():
            _sync(path)
        wall = time.perf_counter() - start
        if process.returncode != status:
            errors.seek(0)
            said = errors.read().decode(errors="replace")[-2000:]
            sys.exit(f"{' '.join(map(str, command))}\nended with status {process.returncode}:\n{said}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def total_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in files(folder))


def resident_share(folders: Iterable[Path]) -> float:
    """Share of the pages of all files in `folders` that the page cache holds, by mincore(2)."""
    held = pages = 0
    for path in (path for folder in folders for path in files(folder)):
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
            flags = (ctypes.c_ubyte * -(-len(mapped) // mmap.PAGESIZE))()
            start = ctypes.c_char.from_buffer(mapped)
            failed = _LIBC.mincore(ctypes.byref(start), ctypes.c_size_t(len(mapped)), flags)
            del start  # it holds the mapping open
            if failed:
                raise OSError(ctypes.get_errno(), f"mincore: {path}")
            held += sum(memoryview(flags).tobytes().translate(_LOWEST_BIT))
            pages += len(flags)
    return held / pages


def warm(folders: Sequence[Path]) -> None:
    """Read what the page cache lacks. Ends this script if memory does not hold it all."""
    for _ in range(3):
        if resident_share(folders) == 1:
            return
        buffer = bytearray(1 << 20)
        for path in (path for folder in folders for path in files(folder)):
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass
    if (share := resident_share(folders)) < 0.999:
        sys.exit(f"the page cache holds {share:.1%} of {', '.join(map(str, folders))}: too little memory is free")


def drop(folders: Sequence[Path]) -> None:
    """Take the files out of the page cache. Ends this script if they stay, as on a tmpfs."""
    for path in (path for folder in folders for path in files(folder)):
        _sync(path)  # a dirty page stays
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if (share := resident_share(folders)) > 0.001:
        sys.exit(f"{share:.1%} of {', '.join(map(str, folders))} stay in the page cache, where none should")


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def available_memory() -> int:
    """Bytes, those of droppable page cache included."""
    return 1024 * int(_field("/proc/meminfo", "MemAvailable").split()[0])


def filesystem(folder: Path) -> str:
    found = subprocess.run(["df", "--output=fstype", folder], capture_output=True, text=True, check=True)
    return found.stdout.split()[-1]


def machine() -> dict[str, Any]:
    """What a reader of the results has to know of the machine."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count(),
        "memory in GB": round(1024 * int(_field("/proc/meminfo", "MemTotal").split()[0]) / 1e9, 1),
        "load": round(os.getloadavg()[0], 2),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def _field(file: str, name: str) -> str:
    for line in Path(file).read_text().splitlines():
        if line.split(":")[0].strip() == name:
            return line.split(":", 1)[1].strip()
    return "0" if name.startswith("Mem") else "unknown"


def save(path: Path, record: dict[str, Any]) -> None:
    """As JSON, with the command, but for where things lay on the machine, and the machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [Path(each).name if Path(each).is_absolute() else each for each in sys.argv]
    path.write_text(json.dumps({"command": command, "machine": machine(), **record}, indent=1) + "\n")
