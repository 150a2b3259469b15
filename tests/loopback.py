"""An HTTP server on loopback, in a thread: what the servers that tests talk to have in common."""

import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class LoopbackServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, handler: type["LoopbackHandler"]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.closing = threading.Event()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def close(self) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()


class LoopbackHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LoopbackServer

    def log_message(self, *args: object) -> None:
        pass

    def start(self, status: int, length: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()

    def reply(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.start(status, len(body), headers or {})
        if self.command != "HEAD":
            self.wfile.write(body)

    def json(self, status: int, value: object, headers: Mapping[str, str] | None = None) -> None:
        self.reply(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def hang(self) -> None:
        """Nothing more, for as long as the server is there."""
        self.server.closing.wait()
        self.close_connection = True
