"""`llm-expo apply --on ray`, on real clusters of two nodes on this machine: same bytes, whatever dies."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch

from llm_expo.cli import main
from llm_expo.errors import MissingExtraError
from llm_expo.weights import Direction, plan, write

SHARDS = 6

# Two nodes, told by address and by the process id of the second one's raylet; they go when the test's end of the pipe
# is closed.
NODES = """
import json, sys
from ray.cluster_utils import Cluster
cluster = Cluster()
first, second = (cluster.add_node(num_cpus=1, env_vars=json.loads(each)) for each in sys.argv[1:])
print(cluster.address, second.all_processes["raylet"][0].process.pid, flush=True)
sys.stdin.read()
cluster.shutdown()
"""

# Every Python process of a node loads this. Where TELL and AWAIT name files, whoever is in the middle of writing makes
# the one and goes on when there is the other. Where CRASH names a journal, whoever is in the middle of writing dies as
# soon as the journal says that a file is finished. Where ELSEWHERE names a folder, this node has it for the output's.
SITECUSTOMIZE = """
import os, pathlib, time
if "AWAIT" in os.environ:
    plain = os.pwrite
    def pwrite(fd, view, at):
        if at:
            pathlib.Path(os.environ["TELL"]).touch()
            while not os.path.exists(os.environ["AWAIT"]):
                time.sleep(0.01)
        return plain(fd, view, at)
    os.pwrite = pwrite
if "CRASH" in os.environ:
    plain = os.pwrite
    def pwrite(fd, view, at):
        journal = pathlib.Path(os.environ["CRASH"])
        if at and journal.exists() and "digest" in journal.read_text():
            os._exit(1)
        return plain(fd, view, at)
    os.pwrite = pwrite
if "ELSEWHERE" in os.environ:
    plain_open = os.open
    def open_elsewhere(path, *more, **named):
        folder, name = os.path.split(os.fsdecode(path))
        if os.path.basename(folder) == "attempts":
            path = os.path.join(os.environ["ELSEWHERE"], name)
        return plain_open(path, *more, **named)
    os.open = open_elsewhere
"""

# What two_nodes tells the nodes: each one waits in the middle of a file, the first one until the second one does, and
# that one until there is a file "go".
HELD = {"TELL": "first", "AWAIT": "held"}, {"TELL": "held", "AWAIT": "go"}


@contextmanager
def two_nodes(folder: Path, first: dict[str, str], second: dict[str, str]) -> Iterator[tuple[str, int]]:
    """The address of a cluster, and the process id of its second node; what the hooks are told is in `folder`."""
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
    hooks = [{name: str(folder / file) for name, file in node.items()} for node in (first, second)]
    python_path = f"{folder}:{os.environ.get('PYTHONPATH', '')}"
    nodes = subprocess.Popen(
        [sys.executable, "-c", NODES, *map(json.dumps, hooks)],
        env={**os.environ, "PYTHONPATH": python_path, "RAY_USAGE_STATS_ENABLED": "0"},
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert nodes.stdin and nodes.stdout
    try:
        address, pid = nodes.stdout.readline().split()
        yield address, int(pid)
    finally:
        nodes.stdin.close()
        assert nodes.wait() == 0


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with two_nodes(tmp_path_factory.mktemp("nodes"), {}, {}) as (address, _):
        yield address


@pytest.fixture
def pair(tmp_path: Path, save: Callable[..., Path]) -> tuple[Path, Path]:
    """A bfloat16 pair of several files."""
    generator = torch.Generator().manual_seed(0)
    before = {f"layers.{at}": torch.randn(40, 50, generator=generator) for at in range(2 * SHARDS)}
    after = {name: tensor + 0.02 * torch.randn(40, 50, generator=generator) for name, tensor in before.items()}
    folders = tmp_path / "theta0", tmp_path / "theta1"
    for folder, tensors in zip(folders, (before, after), strict=True):
        save(folder, {name: tensor.bfloat16() for name, tensor in tensors.items()}, config={}, shards=SHARDS)
    return folders


def command(pair: Sequence[Path | str], out: Path | str, *more: str) -> list[str]:
    paths = map(str, pair)
    return [sys.executable, "-m", "llm_expo.cli", "apply", *paths, "--alpha", "0.3", "--out", str(out), "--json", *more]


def run(
    pair: Sequence[Path | str], out: Path | str, *more: str, address: str, **options: object
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        command(pair, out, "--on", "ray", *more),
        env={**os.environ, "RAY_ADDRESS": address},
        capture_output=True,
        text=True,
        **options,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def finished(partial: Path) -> int:
    journal = partial / "journal"
    return journal.read_text().count('"digest"') if journal.exists() else 0


@pytest.fixture
def plain(pair: tuple[Path, Path], tmp_path: Path) -> dict[str, bytes]:
    """What the plain run writes."""
    write(plan(Direction.open(*pair), 0.3), tmp_path / "plain")
    return contents(tmp_path / "plain")


@pytest.mark.slow
def test_a_node_killed_midway(pair: tuple[Path, Path], tmp_path: Path, plain: dict[str, bytes]) -> None:
    nodes = tmp_path / "nodes"
    nodes.mkdir()
    with two_nodes(nodes, *HELD) as (address, second):
        driver = subprocess.Popen(
            command(pair, tmp_path / "out", "--on", "ray"),
            env={**os.environ, "RAY_ADDRESS": address},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        while not (nodes / "held").exists():
            assert driver.poll() is None
            os.sched_yield()
        raylet = psutil.Process(second)
        for process in (raylet, *raylet.children(recursive=True)):
            process.kill()
        told, noise = driver.communicate()
    assert driver.returncode == 0, noise
    assert "Traceback" not in noise
    assert json.loads(told)["moved"] == 2 * SHARDS
    assert contents(tmp_path / "out") == plain
    assert names(tmp_path) == ["nodes", "out", "plain", "theta0", "theta1"]


@pytest.mark.slow
def test_a_killed_driver(pair: tuple[Path, Path], tmp_path: Path, plain: dict[str, bytes]) -> None:
    nodes, partial = tmp_path / "nodes", tmp_path / "out.partial"
    nodes.mkdir()
    with two_nodes(nodes, *HELD) as (address, _):
        driver = subprocess.Popen(
            command(pair, tmp_path / "out", "--on", "ray"), env={**os.environ, "RAY_ADDRESS": address}
        )
        while not ((nodes / "held").exists() and finished(partial)):
            assert driver.poll() is None
            os.sched_yield()
        driver.kill()
        driver.wait()
        done = finished(partial)
        assert 0 < done < SHARDS
        (nodes / "go").touch()
        again = run(pair, tmp_path / "out", address=address)
    assert (again.returncode, again.stderr) == (0, "")
    assert json.loads(again.stdout)["resumed"] == done
    assert contents(tmp_path / "out") == plain
    assert names(tmp_path) == ["nodes", "out", "plain", "theta0", "theta1"]


@pytest.mark.slow
def test_ray_gives_up(pair: tuple[Path, Path], tmp_path: Path, plain: dict[str, bytes]) -> None:
    """Whoever works on a file dies, until Ray no longer tries: what is finished is not lost."""
    nodes, partial = tmp_path / "nodes", tmp_path / "out.partial"
    nodes.mkdir()
    (nodes / "journal").symlink_to(partial / "journal")
    with two_nodes(nodes, {"CRASH": "journal"}, {"CRASH": "journal"}) as (address, _):
        done = run(pair, tmp_path / "out", address=address)
        assert done.returncode == 1
        line = r"llm-expo: error: model-0000\d-of-00006\.safetensors: no node could write it: .*[^.]; the files that "
        # above it stand Ray's own notices of workers that died
        assert re.fullmatch(line + r"are finished are kept, run it again", done.stderr.splitlines()[-1]), done.stderr
        assert not (tmp_path / "out").exists()
        kept = finished(partial)
        assert 0 < kept < SHARDS
        (nodes / "journal").unlink()
        again = run(pair, tmp_path / "out", address=address)
    assert (again.returncode, again.stderr) == (0, "")
    assert json.loads(again.stdout)["resumed"] == kept
    assert contents(tmp_path / "out") == plain
    assert names(tmp_path) == ["nodes", "out", "plain", "theta0", "theta1"]


@pytest.mark.slow
def test_a_cluster_of_our_own(pair: tuple[Path, Path], tmp_path: Path, plain: dict[str, bytes]) -> None:
    done = run([path.name for path in pair], "out", address="", cwd=tmp_path, umask=0o077)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "llm-expo: no Ray cluster is running here: starting one on this machine alone\n"
    assert json.loads(done.stdout)["path"] == "out"
    written = contents(tmp_path / "out")
    provenance = json.loads(written.pop("llm_expo.json")), json.loads(plain.pop("llm_expo.json"))
    assert provenance[0] == provenance[1]
    assert written == plain
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {0o600}


@pytest.mark.slow
def test_an_error_in_a_task(
    pair: tuple[Path, Path], tmp_path: Path, nodes: str, capfd: pytest.CaptureFixture[str]
) -> None:
    damaged = sorted(pair[1].glob("*.safetensors"))[2]
    damaged.write_bytes(damaged.read_bytes()[:-2] + b"\xc0\x7f")
    assert main(command(pair, tmp_path / "out")[3:]) == 1
    expected = capfd.readouterr().err
    assert "holds nan at index [39, 49]" in expected
    done = run(pair, tmp_path / "out", address=nodes)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", expected)
    assert names(tmp_path) == ["theta0", "theta1"]


@pytest.mark.slow
@pytest.mark.parametrize("hidden", ["an input", "the output"])
def test_a_node_that_does_not_see_the_files(pair: tuple[Path, Path], tmp_path: Path, nodes: str, hidden: str) -> None:
    # A folder that only the driver has open: no other process finds the path.
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    private = f"/proc/self/fd/{fd}"
    inputs = [f"{private}/{path.name}" if hidden == "an input" else str(path) for path in pair]
    out = tmp_path / "out" if hidden == "an input" else f"{private}/out"
    try:
        done = run(inputs, out, address=nodes, pass_fds=[fd])
    finally:
        os.close(fd)
    host = nodes.rpartition(":")[0]
    what = {
        "an input": f"{private}/theta0/model-00001-of-00006.safetensors: node {host} cannot read it",
        "the output": f"{private}/out.partial/attempts: node {host} does not see it, not a directory",
    }[hidden]
    shared = "inputs and output have to lie on storage that every node sees under the same path"
    assert (done.returncode, done.stderr) == (1, f"llm-expo: error: {what}; {shared}\n")
    assert names(tmp_path) == ["theta0", "theta1"]


@pytest.mark.slow
def test_an_output_folder_that_is_another_one_on_the_nodes(pair: tuple[Path, Path], tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with two_nodes(tmp_path, {"ELSEWHERE": "elsewhere"}, {"ELSEWHERE": "elsewhere"}) as (address, _):
        done = run(pair, tmp_path / "out", address=address)
    assert done.returncode == 1
    line = r"llm-expo: error: .*/out\.partial/attempts: what node [\d.]+ wrote there is not here; inputs and output"
    assert re.match(line, done.stderr) and done.stderr.count("\n") == 1
    assert names(tmp_path) == ["elsewhere", "sitecustomize.py", "theta0", "theta1"]


@pytest.mark.slow
def test_more_workers_than_cores(pair: tuple[Path, Path], tmp_path: Path, nodes: str) -> None:
    done = run(pair, tmp_path / "out", "--workers", "2", address=nodes)
    line = "llm-expo: error: --workers 2: the largest node of the Ray cluster has 1 cores\n"
    assert (done.returncode, done.stderr) == (1, line)
    assert names(tmp_path) == ["theta0", "theta1"]


def test_no_cluster_at_the_address(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert main(command(pair, tmp_path / "out", "--on", "ray")[3:]) == 1
    assert "RAY_ADDRESS 127.0.0.1:1: " in capsys.readouterr().err
    assert names(tmp_path) == ["theta0", "theta1"]


def test_without_ray(pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"ray is not installed; it comes with: pip install 'llm-expo\[ray\]'"):
        write(plan(Direction.open(*pair), 0.3), tmp_path / "out", on="ray")
    assert names(tmp_path) == ["theta0", "theta1"]
