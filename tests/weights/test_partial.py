"""A folder with its final name is whole: locks, kills, full disks, permissions."""

import errno
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

from llm_expo.errors import CheckpointError, OutputError
from llm_expo.weights import apply
from llm_expo.weights.partial import partial_folder, refuse_output


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_appears_when_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with partial_folder(out, 0) as partial:
        folder = partial.folder
        assert folder == tmp_path / "out.partial" / "model"
        (folder / "a").write_text("x")
        assert not out.exists()
    assert files(out) == {"a": b"x"}
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_any_error_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def fail() -> None:
        with partial_folder(tmp_path / "new" / "parents" / "out", 0) as partial:
            (partial.folder / "a").write_text("x")
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == []


def test_missing_parents_are_made(tmp_path: Path) -> None:
    with partial_folder(tmp_path / "new" / "parents" / "out", 0) as partial:
        (partial.folder / "a").touch()
    assert files(tmp_path / "new" / "parents" / "out") == {"a": b""}


def test_two_runs_at_one_output(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with partial_folder(out, 0) as partial:
        folder = partial.folder
        (folder / "a").write_text("first")
        with (
            pytest.raises(OutputError, match=r"out: another run is writing it \(in .*out\.partial\)"),
            partial_folder(out, 0),
        ):
            pass
        assert files(folder) == {"a": b"first"}, "the second run must leave the first alone"
    assert files(out) == {"a": b"first"}


def test_a_leftover_is_cleared(tmp_path: Path) -> None:
    leftover = tmp_path / "out.partial" / "model"
    leftover.mkdir(parents=True)
    (leftover / "old").touch()
    (tmp_path / "out.partial" / "lock").touch()
    with partial_folder(tmp_path / "out", 0) as partial:
        assert names(partial.folder) == []
    assert names(tmp_path) == ["out"]


def test_attempts_are_no_part_of_the_output(tmp_path: Path) -> None:
    late = tmp_path / "out.partial" / "attempts" / "of a lost node"
    late.parent.mkdir(parents=True)
    late.touch()
    with partial_folder(tmp_path / "out", 0) as partial:
        assert names(partial.attempts) == []
        for name in ("a", "a, once more"):
            (partial.attempts / name).touch()
        (partial.attempts / "a").rename(partial.folder / "a")
    assert files(tmp_path / "out") == {"a": b""}
    assert names(tmp_path) == ["out"]


def test_a_foreign_folder_is_not_cleared(tmp_path: Path) -> None:
    theirs = tmp_path / "out.partial" / "thesis.tex"
    theirs.parent.mkdir()
    theirs.touch()
    with (
        pytest.raises(OutputError, match="is in the way, and not a leftover of ours"),
        partial_folder(tmp_path / "out", 0),
    ):
        pass
    assert theirs.exists()


def test_the_output_made_by_somebody_else_meanwhile(tmp_path: Path) -> None:
    def run() -> None:
        with partial_folder(tmp_path / "out", 0):
            (tmp_path / "out").mkdir()

    with pytest.raises(OutputError, match="in the meantime"):
        run()
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == []


@pytest.mark.parametrize("kind", ["folder", "file", "broken link"])
def test_an_existing_output(pair: tuple[Path, Path], tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "folder":
        out.mkdir()
    elif kind == "file":
        out.touch()
    else:
        out.symlink_to("gone")
    with pytest.raises(OutputError, match="out: already exists; name a new folder, or remove it first"):
        apply(*pair, 0.3, out)
    assert names(tmp_path) == ["out", "theta0", "theta1"]


def test_an_output_in_an_input(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(pair[1])
    for out in (pair[0] / "out", pair[1] / "sub" / "out", tmp_path / "link" / "out"):
        with pytest.raises(OutputError, match="lies in the input folder"):
            apply(*pair, 0.3, out)
    assert {path.name for folder in pair for path in folder.iterdir()} == {"config.json", "model.safetensors"}


def test_an_input_in_the_outputs_leftover(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="an input cannot lie where"):
        refuse_output(tmp_path / "out", (tmp_path / "out.partial" / "model",))


def test_a_place_where_nobody_may_write(pair: tuple[Path, Path]) -> None:
    with pytest.raises(
        OutputError, match=r"(not permitted|read-only|denied).*; nothing was written to /sys/llm-expo-test"
    ):
        apply(*pair, 0.3, "/sys/llm-expo-test")


def test_a_parent_that_is_a_file(pair: tuple[Path, Path]) -> None:
    with pytest.raises(OutputError, match="not a directory"):
        apply(*pair, 0.3, Path("/dev/null/out"))


def test_a_name_that_is_too_long(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="file name too long"):
        apply(*pair, 0.3, tmp_path / ("x" * 255))


@pytest.mark.parametrize(("mask", "file_mode", "folder_mode"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)])
def test_files_honour_the_umask(
    pair: tuple[Path, Path], tmp_path: Path, mask: int, file_mode: int, folder_mode: int
) -> None:
    before = os.umask(mask)
    try:
        apply(*pair, 0.3, tmp_path / "out")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {file_mode}
    assert (tmp_path / "out").stat().st_mode & 0o777 == folder_mode


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[bool]:
    """A disk of that size at `folder`; False where mounting is not permitted, and it is an ordinary folder."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    real = shutil.which("mount") is not None and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield real
    finally:
        if real:
            subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_too_small(save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [save(tmp_path / name, {"w": torch.zeros(1 << 18)}) for name in ("theta0", "theta1")]
    disk = tmp_path / "disk"
    with mounted(disk, "512k") as real:
        if not real:
            monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 19, 0, 1 << 19))
        with pytest.raises(OutputError, match=r"not enough space, 1\.0 MB are needed and 0\.5 MB are free"):
            apply(*models, 0.3, disk / "out")
        assert names(disk) == []


def test_a_disk_that_runs_full(pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    with mounted(disk, "64k") as real:

        def fill_up(_: int) -> None:
            if not real:
                monkeypatch.setattr(os, "pwrite", full)
                return
            with (disk / "somebody elses").open("ab", buffering=0) as file, suppress(OSError):
                while file.write(bytes(512)) == 512:
                    pass

        with pytest.raises(OutputError, match="no space left on device; nothing was written to"):
            apply(*pair, 0.3, disk / "out", fill_up)
        assert names(disk) == ["somebody elses"] * real


def full(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_write_that_fails(pair: tuple[Path, Path], tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OutputError, match="file too large; nothing was written to"):
            apply(*pair, 0.3, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == ["theta0", "theta1"]


def test_short_reads_and_writes(pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apply(*pair, 0.3, tmp_path / "plain")
    preadv, pwrite = os.preadv, os.pwrite
    monkeypatch.setattr(os, "preadv", lambda fd, views, at: preadv(fd, [views[0][:7]], at))
    monkeypatch.setattr(os, "pwrite", lambda fd, view, at: pwrite(fd, view[:5], at))
    apply(*pair, 0.3, tmp_path / "short")
    assert files(tmp_path / "short") == files(tmp_path / "plain")


def killed_at(moment: Callable[[], None], run: Callable[[Callable[[int], None]], object]) -> int:
    """Run in a child that kills itself when the progress calls `moment`; its exit status."""
    child = os.fork()
    if child == 0:
        try:
            run(lambda _: moment())
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_killed_while_writing(pair: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    apply(*pair, 0.3, tmp_path / "expected")
    for calls in (1, 2):  # behind the header, and behind the weights
        left = [calls]

        def moment(left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        assert killed_at(moment, lambda progress: apply(*pair, 0.3, out, progress)) == -signal.SIGKILL
        assert not out.exists()
        assert (tmp_path / "out.partial" / "lock").exists()
    apply(*pair, 0.3, out)
    assert files(out) == files(tmp_path / "expected")
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize("name", ["fsync", "rename", "unlink", "rmdir"])
@pytest.mark.parametrize("after", [False, True])
def test_killed_while_finishing(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, after: bool
) -> None:
    out = tmp_path / "out"
    apply(*pair, 0.3, tmp_path / "expected")
    # pathlib calls os.rename, os.unlink, os.rmdir
    call = getattr(os, name)

    def kill(*arguments: object, **more: object) -> None:
        if after:
            call(*arguments, **more)
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patched:
        patched.setattr(os, name, kill)
        assert killed_at(lambda: None, lambda progress: apply(*pair, 0.3, out, progress)) == -signal.SIGKILL
    if not out.exists():
        apply(*pair, 0.3, out)
    assert files(out) == files(tmp_path / "expected")


def test_an_interrupt(pair: tuple[Path, Path], tmp_path: Path) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        apply(*pair, 0.3, tmp_path / "out", interrupt)
    assert names(tmp_path) == ["theta0", "theta1"]


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("change", ["touched", "longer", "shorter"])
def test_an_input_that_changes(pair: tuple[Path, Path], tmp_path: Path, side: int, change: str) -> None:
    path = pair[side] / "model.safetensors"
    done = []

    def meddle(_: int) -> None:
        if len(done) == 1:  # the header and the tensors have been written: both files are open
            if change == "touched":
                os.utime(path, ns=(0, 0))
            else:
                os.truncate(path, path.stat().st_size + (1 if change == "longer" else -1))
        done.append(1)

    with pytest.raises(CheckpointError, match=rf"theta{side}/model.safetensors: (changed while it was|ends at byte)"):
        apply(*pair, 0.3, tmp_path / "out", meddle)
    assert names(tmp_path) == ["theta0", "theta1"]


def test_an_input_that_is_replaced_between_header_and_data(pair: tuple[Path, Path], tmp_path: Path) -> None:
    from llm_expo.weights import Direction, plan, write

    planned = plan(Direction.open(*pair), 0.3)
    shutil.copyfile(pair[0] / "model.safetensors", pair[1] / "model.safetensors")
    with pytest.raises(CheckpointError, match="changed while it was being read"):
        write(planned, tmp_path / "out")
    (pair[1] / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no such file or directory"):
        write(planned, tmp_path / "out")
    assert names(tmp_path) == ["theta0", "theta1"]
