"""Folders as no one should hand them in, through the command line: one clear line, status 1, and nothing is touched.

What each refusal says is held in test_checkpoint.py, test_sidefiles.py and weights/test_partial.py; here is that every
one of them reaches the user whole, on either side. And folders that look odd and are right.
"""

import json
import os
import pickle
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llm_expo.checkpoints import Checkpoint
from llm_expo.cli import main
from llm_expo.errors import CheckpointError, ExpoError, OutputError
from llm_expo.weights import Direction, apply, plan

INDEX = "model.safetensors.index.json"
FIRST = "model-00001-of-00002.safetensors"


@pytest.fixture
def sharded(tmp_path: Path, save: Callable[..., Path]) -> tuple[Path, Path]:
    """A small pair in two files each, with a config and a tokenizer."""
    generator = torch.Generator().manual_seed(0)
    before = {name: torch.randn(4, 8, generator=generator) for name in "abcd"}
    sides = tmp_path / "theta0", tmp_path / "theta1"
    for side, step in zip(sides, (0.0, 0.125), strict=True):
        tensors = {name: tensor + step for name, tensor in before.items()}
        save(side, tensors, config={"model_type": "llama"}, shards=2)
        (side / "tokenizer.json").write_text("{}")
    return sides


def state(folder: Path) -> dict[str, tuple[int, int, bytes | None]]:
    """Everything under a folder: mode, time of change, content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) and os.access(path, os.R_OK) else None
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_mtime_ns, content)
    return found


def edit_header(change: Callable[[dict[str, dict[str, list[int]]]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / FIRST
        raw = path.read_bytes()
        stop = 8 + int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8:stop])
        change(header)
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + raw[stop:])

    return edit


def edit_index(change: Callable[[dict[str, str]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text())
        change(index["weight_map"])
        (folder / INDEX).write_text(json.dumps(index))

    return edit


def in_place_of(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def replace(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return replace


def write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def secret_link(path: Path) -> None:
    path.symlink_to("/proc/self/mem")


DEEP = b"[" * 200_000
TWICE = b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
# what happens to the folder, and words of the line that comes of it; side files are read in theta1 only
WEIGHTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a truncated shard": (lambda f: os.truncate(f / FIRST, (f / FIRST).stat().st_size - 1), "truncated"),
    "an empty shard": (lambda f: os.truncate(f / FIRST, 0), "truncated, 0 bytes"),
    "a shard that is too long": (lambda f: os.truncate(f / FIRST, (f / FIRST).stat().st_size + 1), "to no tensor"),
    "a header longer than the file": (write(FIRST, b"\xff\xff\0\0\0\0\0\0{}"), "the header alone has 65543 bytes"),
    "a header of exabytes": (write(FIRST, b"\xff" * 8 + b"{}"), "its header would have 18446744073709551615 bytes"),
    "overlapping offsets": (edit_header(lambda h: h["c"].update(h["a"])), "overlaps"),
    "offsets past the end": (edit_header(lambda h: h["c"].update(data_offsets=[2**40, 2**40 + 128])), "truncated"),
    "negative offsets": (edit_header(lambda h: h["a"].update(data_offsets=[-128, 0])), "data_offsets are not"),
    "a hole": (edit_header(lambda h: h.pop("a")), "a hole of 128 bytes"),
    "a name twice": (write(FIRST, len(TWICE).to_bytes(8, "little") + TWICE), 'names "a" twice'),
    "a header that is no JSON": (write(FIRST, b"\3\0\0\0\0\0\0\0{]}"), "is not valid JSON"),
    "a deep header": (write(FIRST, (200_005).to_bytes(8, "little") + b'{"a":' + DEEP), "nested too deeply"),
    "an index that is no JSON": (write(INDEX, b"\x80"), "is not valid JSON"),
    "a deep index": (write(INDEX, DEEP), "nested too deeply"),
    "an index in UTF-16": (write(INDEX, '{"weight_map":{}}'.encode("utf-16")), "is not valid JSON"),
    "an index with a name twice": (write(INDEX, b'{"weight_map":{"a":"x","a":"y"}}'), 'names "a" twice'),
    "an index that leads outside": (edit_index(lambda m: m.update(a=f"../theta0/{FIRST}")), "not the name of a"),
    "an index with an absolute path": (edit_index(lambda m: m.update(a="/etc/passwd")), "not the name of a"),
    "an index with a missing file": (edit_index(lambda m: m.update(a="gone.safetensors")), "is missing"),
    "an index without a tensor": (edit_index(lambda m: m.pop("a")), "does not name a"),
    "a missing shard": (lambda f: (f / FIRST).unlink(), "is missing"),
    "a shard that is a loop of links": (in_place_of(FIRST, loop), "too many levels of symbolic links"),
    "a shard that is a broken link": (in_place_of(FIRST, lambda p: p.symlink_to("gone")), "a broken link"),
    "a shard that is a pipe": (in_place_of(FIRST, os.mkfifo), "is not a regular file"),
    "a shard that is a folder": (in_place_of(FIRST, Path.mkdir), "is not a regular file"),
    "a shard that is a device": (in_place_of(FIRST, lambda p: p.symlink_to("/dev/zero")), "is not a regular file"),
    "a shard without an end": (in_place_of(FIRST, secret_link), "truncated, 0 bytes"),
    "an index that is a pipe": (in_place_of(INDEX, os.mkfifo), "is not a regular file"),
    "an index that is a loop": (in_place_of(INDEX, loop), "too many levels of symbolic links"),
    "a config that is a pipe": (in_place_of("config.json", os.mkfifo), "is not a regular file"),
    "a config that is no JSON": (write("config.json", b"{"), "is not valid JSON"),
    "a deep config": (write("config.json", DEEP), "nested too deeply"),
    "a folder that is a loop": (lambda f: shutil.rmtree(f) or loop(f), "too many levels of symbolic links"),
    "no folder": (shutil.rmtree, "no such folder"),
    "a folder that is a pipe": (lambda f: shutil.rmtree(f) or os.mkfifo(f), "is not a folder"),
}  # fmt: skip
BESIDE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a tokenizer that is a pipe": (in_place_of("tokenizer.json", os.mkfifo), "is not a regular file"),
    "a tokenizer that is a loop": (in_place_of("tokenizer.json", loop), "too many levels of symbolic links"),
    "a tokenizer that is a broken link": (in_place_of("tokenizer.json", lambda p: p.symlink_to("x")), "a broken link"),
}


@pytest.mark.parametrize(
    ("side", "what"), [(side, what) for what in WEIGHTS for side in (0, 1)] + [(1, what) for what in BESIDE]
)
def test_one_line_and_nothing_touched(
    sharded: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], side: int, what: str
) -> None:
    spoil, words = {**WEIGHTS, **BESIDE}[what]
    spoil(sharded[side])
    before = state(tmp_path)
    assert main(["apply", *map(str, sharded), "--alpha", "0.3", "--out", str(tmp_path / "out")]) == 1
    printed, said = capsys.readouterr()
    assert printed == ""
    assert said.startswith("llm-expo: error: ")
    assert said.count("\n") == 1, "one line"
    assert words in said
    assert str(sharded[side]) in said, "it says where"
    assert state(tmp_path) == before


# ---- folders that look odd and are right ----


def test_the_cache_of_the_hub(sharded: tuple[Path, Path], tmp_path: Path) -> None:
    """Snapshots of relative links into blobs, as huggingface_hub lays them out; what is written has no link."""
    apply(*sharded, 0.5, tmp_path / "plain")
    snapshots = []
    for side in sharded:
        cache = tmp_path / "hub" / f"models--org--{side.name}"
        snapshot = cache / "snapshots" / ("0123456789abcdef" * 3)[:40]
        snapshot.mkdir(parents=True)
        (cache / "blobs").mkdir()
        for number, path in enumerate(sorted(side.iterdir())):
            path.rename(cache / "blobs" / f"blob{number}")
            (snapshot / path.name).symlink_to(Path("..") / ".." / "blobs" / f"blob{number}")
        snapshots.append(snapshot)
    apply(*snapshots, 0.5, tmp_path / "out")
    written = {path.name: path for path in (tmp_path / "out").iterdir()}
    assert not any(path.is_symlink() for path in written.values())
    for path in (tmp_path / "plain").iterdir():
        assert path.name == "llm_expo.json" or written[path.name].read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", ["a model", "модель ü 模型", "-rf", "new\nline", "%s{x}[red]", "é" * 100])
def test_names_with_spaces_and_unicode(
    save: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    place = tmp_path / name
    tensors = {f"{name}.a": torch.ones(2), "b c": torch.ones(1)}
    theta0 = save(place / "theta0", tensors, config={})
    theta1 = save(place / "theta1", {key: 2 * tensor for key, tensor in tensors.items()}, config={})
    (theta1 / f"{name}.txt").write_text("beside")
    monkeypatch.chdir(place)
    assert main(["apply", str(theta0), str(theta1), "--alpha", "0.5", f"--out={name}"]) == 0
    assert load_file(place / name / "model.safetensors")[f"{name}.a"].tolist() == [2.5, 2.5]
    assert (place / name / f"{name}.txt").read_text() == "beside"


def test_names_that_are_no_unicode(save: Callable[..., Path], tmp_path: Path) -> None:
    place = tmp_path / os.fsdecode(b"latin\xe9")
    theta0, theta1 = (save(place / f"theta{side}", {"a": torch.ones(2) + side}, config={}) for side in (0, 1))
    apply(theta0, theta1, 0.5, place / "out")
    assert (place / "out" / "model.safetensors").exists()
    with pytest.raises(ExpoError) as caught:
        apply(theta0, place / "gone", 0.5, place / "out2")
    assert str(caught.value).isprintable()


@pytest.mark.slow
def test_100_000_tensors(literal: Callable[..., Path], tmp_path: Path) -> None:
    header = {
        f"experts.{i}.weight": {"dtype": "BF16", "shape": [1, 1], "data_offsets": [2 * i, 2 * i + 2]}
        for i in range(100_000)
    }
    theta0 = literal(header, b"\x80\x3f" * 100_000, "theta0")  # ones
    theta1 = literal(header, b"\x00\x40" * 100_000, "theta1")  # twos
    assert plan(Direction.open(theta0, theta1), 0.5).moved == 100_000
    assert apply(theta0, theta1, 0.5, tmp_path / "out").moved == 100_000
    written = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert written.endswith(b"\x20\x40" * 100_000)  # 2.5
    assert len(written) == (theta1 / "model.safetensors").stat().st_size


def test_files_are_plain(sharded: tuple[Path, Path], tmp_path: Path) -> None:
    """Not theta1's modes, times or links: those of any new file."""
    for path in sharded[1].iterdir():
        os.utime(path, ns=(0, 0))
        path.chmod(0o400)
    begun = time.time() - 2  # a file system's clock may run behind
    apply(*sharded, 0.5, tmp_path / "out")
    plain = tmp_path / "plain"
    plain.touch()
    for path in (tmp_path / "out").iterdir():
        status = path.stat()
        assert (status.st_uid, status.st_gid, status.st_mode) == (
            plain.stat().st_uid,
            plain.stat().st_gid,
            plain.stat().st_mode,
        )
        assert status.st_nlink == 1
        assert status.st_mtime >= begun


# ---- permissions, as somebody whom they bind ----


@pytest.fixture
def public(sharded: tuple[Path, Path]) -> Iterator[Path]:
    """A folder that any user can reach, unlike tmp_path, with a copy of the pair that any user can read."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    for side in sharded:
        shutil.copytree(side, folder / side.name)
        for path in (folder / side.name).iterdir():
            path.chmod(0o644)
    yield folder
    shutil.rmtree(folder)


def as_nobody(run: Callable[[], object]) -> ExpoError | None:
    """What `run` raises in a child without root's privileges; whoever is not root, runs it as himself."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        raised: ExpoError | None = None
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            run()
        except ExpoError as error:
            raised = error
        except BaseException:  # noqa: BLE001 (the child must not return into pytest)
            traceback.print_exc()
            os._exit(1)
        os.write(writing, pickle.dumps(raised))
        os._exit(0)
    os.close(writing)
    assert os.waitpid(child, 0)[1] == 0, "anything but an ExpoError is printed above"
    with os.fdopen(reading, "rb") as pipe:
        found = pickle.load(pipe)
    assert found is None or isinstance(found, ExpoError)
    return found


@pytest.mark.parametrize("name", [FIRST, INDEX, "config.json", "tokenizer.json", "."])
def test_an_input_that_may_not_be_read(public: Path, name: str) -> None:
    target = public / "theta1" / name
    target.chmod(0)
    try:
        raised = as_nobody(lambda: apply(public / "theta0", public / "theta1", 0.5, public / "out"))
    finally:
        target.chmod(0o755)
    assert isinstance(raised, CheckpointError)
    assert "permission denied" in str(raised)
    assert str(target) in str(raised)
    assert [path.name for path in sorted(public.iterdir())] == ["theta0", "theta1"]


def test_a_target_that_may_not_be_written(public: Path) -> None:
    (public / "target").mkdir()
    (public / "target").chmod(0o555)
    for out in (public / "target" / "out", public / "target" / "new" / "out"):
        raised = as_nobody(lambda out=out: apply(public / "theta0", public / "theta1", 0.5, out))
        assert isinstance(raised, OutputError)
        assert "permission denied; nothing was written to" in str(raised)
    assert [*(public / "target").iterdir()] == []


def test_a_read_only_input_is_enough(public: Path) -> None:
    sides = public / "theta0", public / "theta1"
    for side in sides:
        for path in (*side.iterdir(), side):
            path.chmod(0o555)
    assert as_nobody(lambda: apply(*sides, 0.5, public / "out")) is None
    assert set(Checkpoint.open(public / "out").tensors) == set("abcd")


# ---- two runs ----


def test_two_processes_at_one_output(sharded: tuple[Path, Path], tmp_path: Path) -> None:
    """The first is stopped while it writes; the second is refused; the first goes on and is whole."""
    out = tmp_path / "out"
    apply(*sharded, 0.5, tmp_path / "expected")
    first = os.fork()
    if first == 0:
        stops = [signal.SIGSTOP]
        try:
            apply(*sharded, 0.5, out, lambda _: stops and os.kill(os.getpid(), stops.pop()))
        finally:
            os._exit(0)
    try:
        assert os.WIFSTOPPED(os.waitpid(first, os.WUNTRACED)[1])
        before = state(tmp_path)
        command = [
            sys.executable,
            "-m",
            "llm_expo.cli",
            "apply",
            *map(str, sharded),
            "--alpha",
            "0.5",
            "--out",
            str(out),
        ]
        second = subprocess.run(command, capture_output=True, text=True)
        assert second.returncode == 1
        assert "another run is writing it" in " ".join(second.stderr.split())
        assert not out.exists()
        assert state(tmp_path) == before, "the second leaves the first alone"
    finally:
        os.kill(first, signal.SIGCONT)
        os.waitpid(first, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expected", "out", "theta0", "theta1"]
    for path in (tmp_path / "expected").iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()
