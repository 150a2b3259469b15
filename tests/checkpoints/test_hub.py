"""Ids of the hub, end to end: huggingface_hub itself against an emulation of the hub on loopback."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from hub_server import Hub, Server
from huggingface_hub import constants, file_download
from safetensors.torch import load_file

from llm_expo.checkpoints import Checkpoint
from llm_expo.checkpoints.hub import Located, resolve
from llm_expo.checkpoints.layout import INDEX_NAME
from llm_expo.errors import CheckpointError
from llm_expo.weights import Direction, plan, write, write_difference

CLUTTER = {
    "README.md": b"---\nbase_model: org/base\n---\n",
    "LICENSE": b"free",
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"{{ x }}",
    "additional_chat_templates/tool.jinja": b"{{ y }}",
    ".gitattributes": b"*",
    "training_args.bin": b"0",
    "model-q4.gguf": b"0",
    "model.fp16.safetensors": b"0",
    "consolidated.safetensors": b"0",
    "onnx/model.onnx": b"0",
    "onnx/config.json": b"{}",
    "original/params.json": b"{}",
}
BESIDE = {"README.md", "LICENSE", "tokenizer.json", "chat_template.jinja", "additional_chat_templates/tool.jinja"}


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(Hub())
    yield server
    server.close()


@pytest.fixture
def hub(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub that this process takes for huggingface.co, with an empty cache and no token."""
    # read at import, so that setting the variables would be too late
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)
    monkeypatch.chdir(tmp_path)
    huggingface_hub.close_session()
    yield server.hub
    huggingface_hub.close_session()


@pytest.fixture
def files(save: Callable[..., Path], tmp_path: Path) -> Callable[..., dict[str, bytes]]:
    """files(value, shards=1) -> the files of a model with config and weights, by name."""

    def make(value: float, shards: int = 1) -> dict[str, bytes]:
        folder = tmp_path / f"made-{value}-{shards}"
        save(folder, {name: torch.full((64,), value) for name in "abcd"}, config={"model_type": "llama"}, shards=shards)
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    return make


def holds(located: Located, files: dict[str, bytes]) -> bool:
    return all((located.folder / name).read_bytes() == content for name, content in files.items())


def refusal(spec: str, **more: bool) -> str:
    with pytest.raises(CheckpointError) as caught:
        resolve(spec, **more)
    message = str(caught.value)
    assert message.startswith(spec)
    assert message.isprintable()
    assert len(message) < 600
    return message


def test_a_single_file_and_what_belongs_to_it(hub: Hub, files) -> None:
    model = files(1.0)
    commit = hub.add("org/model", model | CLUTTER)
    located = resolve("org/model")
    assert (located.repo, located.revision, located.commit) == ("org/model", None, commit)
    assert hub.fetched() == set(model) | BESIDE
    assert holds(located, model)
    assert (located.folder / "model.safetensors").is_symlink()
    assert set(Checkpoint.open(located.folder).tensors) == set("abcd")


def test_shards_by_branch_and_by_commit(hub: Hub, files) -> None:
    first, second = files(1.0, shards=2), files(2.0, shards=3)
    old, new = hub.add("org/model", first), hub.add("org/model", second)
    hub.add("org/model", first, "before/training")
    assert resolve("org/model").commit == new
    branch = resolve("org/model@before/training")
    assert (branch.revision, branch.commit) == ("before/training", old)
    assert holds(branch, first)
    assert resolve(f"org/model@{old}") == Located(branch.folder, "org/model", old, old)
    assert set(Checkpoint.open(branch.folder).tensors) == set("abcd")


def test_only_the_shards_that_the_index_names(hub: Hub, files) -> None:
    model = files(1.0, shards=2)
    hub.add("org/model", model | {"model-00001-of-00009.safetensors": b"0"})
    resolve("org/model")
    assert hub.fetched() == set(model)


def test_an_index_that_names_what_the_model_lacks(hub: Hub, files) -> None:
    model = files(1.0, shards=2)
    del model["model-00002-of-00002.safetensors"]
    hub.add("org/model", model)
    assert "its index names model-00002-of-00002.safetensors, which is not in" in refusal("org/model")


def test_all_files_are_of_one_commit_though_the_branch_moves(hub: Hub, files) -> None:
    new = hub.add("org/model", files(2.0, shards=3))
    old = hub.add("org/model", files(1.0, shards=2))
    hub.on_pinned["org/model"] = new
    located = resolve("org/model")
    assert located.commit == old
    assert holds(located, files_of(hub, old))
    assert {path.split("/resolve/")[1].split("/")[0] for path in resolved(hub)} == {old}


def resolved(hub: Hub) -> list[str]:
    return [request.path for request in hub.requests if "/resolve/" in request.path]


def files_of(hub: Hub, commit: str) -> dict[str, bytes]:
    return next(repo.commits[commit] for repo in hub.repos.values() if commit in repo.commits)


def test_what_is_in_the_cache_is_not_fetched_again(hub: Hub, files) -> None:
    commit = hub.add("org/model", files(1.0))
    located = resolve("org/model")
    hub.requests.clear()
    assert resolve("org/model") == located
    assert hub.fetched() == set()
    hub.requests.clear()
    assert resolve(f"org/model@{commit}").folder == located.folder
    assert hub.requests == []


@pytest.mark.parametrize("listed", [True, False], ids=["by us", "by an older library, which kept no list"])
def test_offline_from_the_cache(hub: Hub, files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, listed: bool) -> None:
    model = files(1.0, shards=2)
    hub.add("org/model", model)
    located = resolve("org/model")
    if not listed:
        shutil.rmtree(tmp_path / "cache" / "models--org--model" / "trees")
        huggingface_hub._tree_cache._IN_MEMORY_TREE_CACHE.clear()
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve("org/model") == located
    assert holds(located, model)
    assert hub.requests == []
    for name, words in (("model-00002-of-00002.safetensors", "which is not in"), (INDEX_NAME, "no model.safetensors")):
        (located.folder / name).unlink()
        message = refusal("org/model")
        assert ("is not whole in the cache" if listed else words) in message
        assert "HF_HUB_OFFLINE is set, unset it once to fetch the model" in message


def test_offline_and_never_fetched(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for spec in ("org/model", "org/model@v1", f"org/model@{'0' * 40}"):
        assert f"is not whole in the cache, {tmp_path / 'cache'}; HF_HUB_OFFLINE is set" in refusal(spec)


def test_a_hub_out_of_reach(hub: Hub, server: Server, files) -> None:
    hub.add("org/model", files(1.0))
    located = resolve("org/model")
    server.close()
    huggingface_hub.close_session()
    assert resolve("org/model") == located
    assert f"the connection to {server.url} failed (ConnectError: " in refusal("org/other")
    assert "run it again: files that arrived whole are kept" in refusal(f"org/model@{'0' * 40}")


def test_a_connection_that_breaks_goes_on_where_it_was(hub: Hub, files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 50)  # what is kept of a broken file is whole chunks
    model = files(1.0, shards=2)
    hub.add("org/model", model)
    name = "model-00001-of-00002.safetensors"
    hub.cuts[name] = [100, 200]
    located = resolve("org/model")
    assert [request.range for request in hub.got(name)] == [None, "bytes=100-", "bytes=300-"]
    assert holds(located, model)


def test_a_connection_that_keeps_breaking(hub: Hub, files) -> None:
    model = files(1.0, shards=2)
    hub.add("org/model", model)
    name = "model-00002-of-00002.safetensors"
    hub.cuts[name] = [100, *[0] * 20]
    message = refusal("org/model")
    assert "failed (RemoteProtocolError" in message
    assert "run it again: files that arrived whole are kept" in message
    hub.cuts.clear()
    hub.requests.clear()
    located = resolve("org/model")
    assert holds(located, model)
    assert "config.json" not in hub.fetched()
    assert name in hub.fetched()


def test_killed_midway_the_next_run_ends_right(hub: Hub, server: Server, files, tmp_path: Path) -> None:
    """Through the environment, as users set it; and nothing but the answer goes to standard output."""
    model = files(1.0, shards=2)
    commit = hub.add("org/model", model, private=True)
    hub.tokens = ("secret",)
    name = "model-00002-of-00002.safetensors"
    half = hub.stops[name] = threading.Event()
    code = "import sys; from llm_expo.checkpoints.hub import resolve; print(resolve('org/model').commit)"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "secret"}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        assert half.wait(60)
        process.send_signal(signal.SIGKILL)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{commit}\n"
    folder = tmp_path / "home" / "hub" / "models--org--model" / "snapshots" / commit
    assert holds(Located(folder), model)
    assert len(hub.got(name)) == 2
    offline = environment | {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    assert subprocess.run(command, env=offline, capture_output=True, text=True, check=True).stdout == f"{commit}\n"


def test_the_token_goes_to_the_hub_and_not_to_its_store(hub: Hub, files, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("org/model", files(1.0), private=True)
    hub.tokens = ("secret",)
    assert "neither a folder nor a model on" in refusal("org/model")
    assert "if it is private, log in with `hf auth login` or HF_TOKEN" in refusal("org/model")
    monkeypatch.setenv("HF_TOKEN", "stale")
    assert "does not take the token; log in with `hf auth login`, or mend HF_TOKEN" in refusal("org/model")
    hub.requests.clear()
    monkeypatch.setenv("HF_TOKEN", "secret")
    resolve("org/model")
    sent = {request.path.startswith("/store/"): request.authorization for request in hub.requests}
    assert sent == {True: None, False: "Bearer secret"}


@pytest.mark.parametrize("token", [None, "secret"])
def test_gated(hub: Hub, server: Server, files, monkeypatch: pytest.MonkeyPatch, token: str | None) -> None:
    hub.add("org/model", files(1.0), gated=True)
    if token is not None:
        hub.tokens = (token,)
        monkeypatch.setenv("HF_TOKEN", token)
    words = f"is gated: ask for access at {server.url}/org/model, and log in with `hf auth login` or HF_TOKEN"
    assert words in refusal("org/model")


def test_no_such_model_revision_or_folder(hub: Hub, server: Server, files) -> None:
    hub.add("org/model", files(1.0))
    assert f"neither a folder nor a model on {server.url}; check the name" in refusal("org/modle")
    assert "org/model has no revision v2; give a branch, a tag or a whole commit hash" in refusal("org/model@v2")
    assert f"has no revision {'0' * 40}" in refusal(f"org/model@{'0' * 40}")
    hub.requests.clear()
    for spec in ("./org/model", "a/b/c", "/gone", "org/model/", "org/model@", "org/model@../../x", "org/a b", "~/m"):
        assert refusal(spec) == f"{spec}: no such folder"
    for spec in ("model", "model@main", ""):
        assert refusal(spec) == f"{spec}: no such folder; a model of the hub is written ORG/NAME or ORG/NAME@REVISION"
    with pytest.raises(CheckpointError, match=r"org/model: no such folder$"):
        resolve(Path("org/model"))
    assert hub.requests == []


def test_the_hub_is_down(hub: Hub, server: Server) -> None:
    hub.down = True
    assert f"{server.url} answers 503 Service Unavailable; run it again" in refusal("org/model")


def test_a_cache_that_cannot_be_written(hub: Hub, files, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub.add("org/model", files(1.0))

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(file_download, "_chmod_and_move", full)
    words = f"cannot be kept in {tmp_path / 'cache'}: no space left on device; HF_HOME names another place"
    assert words in refusal("org/model")


def test_pickles_only_if_asked_for_and_only_without_safetensors(hub: Hub, files) -> None:
    hub.add("org/pickled", {"config.json": b"{}", "pytorch_model.bin": b"0", "rust_model.ot": b"0"})
    message = refusal("org/pickled")
    assert "only pytorch_model.bin; pickles are not read" in message
    assert "--allow-bin" in message
    assert "pytorch_model.bin" not in hub.fetched()
    assert (resolve("org/pickled", allow_bin=True).folder / "pytorch_model.bin").read_bytes() == b"0"
    hub.add("org/both", files(1.0) | {"pytorch_model.bin": b"1"})
    hub.requests.clear()
    resolve("org/both", allow_bin=True)
    assert "pytorch_model.bin" not in hub.fetched()


def test_pickles_in_shards(hub: Hub) -> None:
    index = json.dumps({"weight_map": {"a": "pytorch_model-00001-of-00001.bin"}}).encode()
    model = {"pytorch_model.bin.index.json": index, "pytorch_model-00001-of-00001.bin": b"0", "other.bin": b"0"}
    hub.add("org/pickled", {"config.json": b"{}"} | model)
    resolve("org/pickled", allow_bin=True)
    assert hub.fetched() == set(model) - {"other.bin"} | {"config.json"}


def test_quantised_weights_are_refused_before_they_are_fetched(hub: Hub, files) -> None:
    config = json.dumps({"quantization_config": {"quant_method": "gptq"}}).encode()
    hub.add("org/model", files(1.0) | {"config.json": config})
    with pytest.raises(CheckpointError, match=r"is quantised \(gptq"):
        resolve("org/model")
    assert hub.fetched() == {"config.json"}


def test_an_adapter(hub: Hub, files) -> None:
    adapter = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"0", "README.md": b"#"}
    hub.add("org/adapter", adapter | {"adapter_model.bin": b"0"})
    resolve("org/adapter")
    assert hub.fetched() == set(adapter)


def test_a_folder_wins(hub: Hub, files, tmp_path: Path) -> None:
    commit = hub.add("org/model", files(1.0))
    snapshot = resolve("org/model").folder
    hub.requests.clear()
    assert resolve(str(snapshot)) == resolve(snapshot) == Located(snapshot, "org/model", None, commit)
    (tmp_path / "org" / "model").mkdir(parents=True)
    assert resolve("org/model") == Located(Path("org/model"))
    assert resolve(Path("org/model")) == Located(Path("org/model"))
    (tmp_path / "org" / "broken").symlink_to("gone")
    assert resolve("org/broken") == Located(Path("org/broken"))
    assert hub.requests == []


def test_a_difference_and_the_theta0_that_it_names(hub: Hub, files, tmp_path: Path) -> None:
    commit = hub.add("org/sft", files(1.0))
    hub.add("org/sft", files(5.0))
    theta0 = Checkpoint.open(f"org/sft@{commit}")
    (tmp_path / "trained").mkdir()
    for name, content in files(1.25).items():
        (tmp_path / "trained" / name).write_bytes(content)
    write_difference(theta0, Checkpoint.open(tmp_path / "trained"), tmp_path / "kept")
    made = {path.name: path.read_bytes() for path in (tmp_path / "kept").iterdir()}
    hub.add("org/dpo", made | CLUTTER | {"difference-00001-of-00009.safetensors": b"0"})
    shutil.rmtree(tmp_path / "cache")
    hub.requests.clear()
    pair = Direction.open(None, "org/dpo")
    assert hub.fetched() == set(made) | BESIDE | {"model.safetensors"}
    assert (pair.initial.located.repo, pair.initial.located.commit) == ("org/sft", commit)
    write(plan(pair, 1.0), tmp_path / "moved")
    moved = load_file(tmp_path / "moved" / "model.safetensors")
    assert all(tensor.tolist() == [1.5] * 64 for tensor in moved.values())
