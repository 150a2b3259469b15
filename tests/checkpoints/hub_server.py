"""The part of the Hugging Face hub that downloading uses, on loopback: an HTTP server in a thread.

Answers as the hub does: revision -> commit, the commit's tree, /resolve/ with X-Repo-Commit, ETag and a redirect of
large files to another host (127.0.0.1 is the hub, localhost its store), byte ranges, 401, 403 and 404 with their
X-Error-Code. It can also cut a connection midway, stop in the middle of a file, and be told to answer 503.
"""

import hashlib
import json
import threading
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from loopback import LoopbackHandler, LoopbackServer

LARGE = (".safetensors", ".bin", ".gguf", ".onnx")


@dataclass
class Repo:
    commits: dict[str, dict[str, bytes]]  # commit -> path -> content
    refs: dict[str, str]  # branch or tag -> commit
    private: bool = False  # told from a missing one by token alone
    gated: bool = False  # listed for everybody, its files for nobody


class Request(NamedTuple):
    method: str
    path: str
    range: str | None
    authorization: str | None


@dataclass
class Hub:
    """The state of the server: what it holds, what it was asked, what shall go wrong."""

    repos: dict[str, Repo] = field(default_factory=dict)
    tokens: tuple[str, ...] = ()  # None other is taken
    requests: list[Request] = field(default_factory=list)
    cuts: dict[str, list[int]] = field(default_factory=dict)  # path -> for each GET to come, the bytes before the cut
    stops: dict[str, threading.Event] = field(default_factory=dict)  # path -> set when half of it is sent; then silence
    down: bool = False
    on_pinned: dict[str, str] = field(default_factory=dict)  # repo -> commit that main moves to once it was resolved

    def add(self, name: str, files: dict[str, bytes], *branches: str, **more: bool) -> str:
        """A new commit of a repo, on main unless branches are named."""
        commit = hashlib.sha1(json.dumps([name, sorted(files), str(files)]).encode()).hexdigest()
        repo = self.repos.setdefault(name, Repo({}, {}, **more))
        repo.commits[commit] = files
        repo.refs |= dict.fromkeys(branches or ("main",), commit)
        return commit

    def got(self, path: str) -> list[Request]:
        """The GET requests for the content of a file."""
        return [each for each in self.requests if each.method == "GET" and each.path.endswith(f"/{path}")]

    def fetched(self) -> set[str]:
        """The files whose content was asked for, small and large."""
        paths = [each.path for each in self.requests if each.method == "GET" and not each.path.startswith("/api/")]
        return {path.split("/resolve/")[-1].split("/", 1)[1] for path in paths if "/resolve/" in path} | {
            path.split("/", 3)[3] for path in paths if path.startswith("/store/")
        }


class Server(LoopbackServer):
    def __init__(self, hub: Hub) -> None:
        super().__init__(Handler)
        self.hub = hub


class Handler(LoopbackHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        hub = self.server.hub
        path = unquote(urlsplit(self.path).path)
        token = self.headers["Authorization"]
        hub.requests.append(Request(self.command, path, self.headers["Range"], token))
        if hub.down:
            return self.reply(503, b"")
        if path.startswith("/store/"):
            _, _, digest, name = path.split("/", 3)
            return self.content(name, next(c for c in self.contents() if hashlib.sha256(c).hexdigest() == digest))
        if token is not None and token.removeprefix("Bearer ") not in hub.tokens:
            return self.refuse(401, "", "Invalid credentials in Authorization header")
        if path.startswith("/api/models/"):
            owner, name, *rest = path.removeprefix("/api/models/").split("/")
            verb, revision = (rest[0], "/".join(rest[1:])) if rest else ("revision", "main")
        else:
            owner, name, verb, revision, *rest = path[1:].split("/")
        repo = hub.repos.get(f"{owner}/{name}")
        if repo is None or (repo.private and token is None):
            return self.refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        commit = repo.refs.get(revision, revision)
        if commit not in repo.commits:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = repo.commits[commit]
        if verb == "revision":
            repo.refs["main"] = hub.on_pinned.get(f"{owner}/{name}", repo.refs.get("main", commit))
            siblings = [{"rfilename": file} for file in files]
            return self.json(
                200, {"id": f"{owner}/{name}", "modelId": f"{owner}/{name}", "sha": commit, "siblings": siblings}
            )
        if verb == "tree":
            return self.json(200, [self.entry(file, content) for file, content in files.items()])
        file = "/".join(rest)
        if repo.gated:
            return self.refuse(403 if token else 401, "GatedRepo", "Access to this model is restricted")
        if file not in files:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        return self.file(file, files[file], commit)

    def contents(self) -> list[bytes]:
        commits = [files for repo in self.server.hub.repos.values() for files in repo.commits.values()]
        return [content for files in commits for content in files.values()]

    def entry(self, file: str, content: bytes) -> dict[str, object]:
        oid = hashlib.sha1(content).hexdigest()
        large = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        found = {"type": "file", "path": file, "size": len(content), "oid": oid}
        return {**found, "lfs": large} if file.endswith(LARGE) else found

    def file(self, file: str, content: bytes, commit: str) -> None:
        if not file.endswith(LARGE):
            return self.content(
                file, content, {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
            )
        digest = hashlib.sha256(content).hexdigest()
        where = f"http://localhost:{self.server.server_port}/store/{digest}/{file}"
        linked = {"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        return self.reply(302, b"", {"X-Repo-Commit": commit, "Location": where, **linked})

    def content(self, file: str, content: bytes, headers: dict[str, str] | None = None) -> None:
        hub = self.server.hub
        if self.command == "HEAD":
            return self.reply(200, content, headers)
        begin = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        span = {"Content-Range": f"bytes {begin}-{len(content) - 1}/{len(content)}"} if begin else {}
        self.start(206 if begin else 200, len(content) - begin, {**(headers or {}), **span})
        if hub.cuts.get(file):
            self.wfile.write(content[begin : begin + hub.cuts[file].pop(0)])
            self.close_connection = True
            return None
        if file in hub.stops:
            self.wfile.write(content[begin : len(content) // 2])
            hub.stops.pop(file).set()
            return self.hang()
        self.wfile.write(content[begin:])
        return None

    def refuse(self, status: int, code: str, message: str) -> None:
        self.reply(status, b"", {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})})
