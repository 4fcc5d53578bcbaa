"""A server on this machine that misbehaves on demand, and small weights to serve."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


@dataclass
class Answer:
    """How one request is answered; what is left out is done well."""

    status: int = 200
    send: int | None = None  # so many bytes of the body, then the connection is cut
    hang: bool = False  # after those bytes, say nothing more, and do not hang up
    headers: dict[str, str] = field(default_factory=dict)


class FileServer(ThreadingHTTPServer):
    """Serve one body under every path; `answers` are used up first."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = b""
        self.etag: str | None = '"one"'
        self.ranges = True
        self.length = True
        self.answers: list[Answer] = []
        self.requests: list[tuple[str, str | None]] = []  # path and Range of each
        self.arrived = threading.Semaphore(0)
        self.gate = threading.Event()  # closed, every body stops half way until it opens
        self.gate.set()
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.body).hexdigest()

    def answer_with(
        self,
        status: int = 200,
        *,
        send: int | None = None,
        hang: bool = False,
        headers: dict[str, str] | None = None,
        times: int = 1,
    ) -> None:
        """Queue an answer for the next requests."""
        self.answers += [Answer(status, send, hang, headers or {}) for _ in range(times)]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is what is being tested."""


class Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        server = self.server
        asked = self.headers.get("Range")
        server.requests.append((self.path, asked))
        server.arrived.release()
        answer = server.answers.pop(0) if server.answers else Answer()
        start = 0
        if asked and server.ranges and self.headers.get("If-Range", server.etag) == server.etag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if answer.status == 200 and start >= len(server.body) > 0:
            answer.status = 416
        body = server.body[start:] if answer.status == 200 else b""
        self.send_response(206 if answer.status == 200 and start else answer.status)
        if answer.status == 200 and start:
            self.send_header("Content-Range", f"bytes {start}-{len(server.body) - 1}/{len(server.body)}")
        if server.length:
            self.send_header("Content-Length", str(len(body)))
        if server.etag:
            self.send_header("ETag", server.etag)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        middle = len(body) // 2
        self.wfile.write(body[:middle] if answer.send is None else body[: answer.send])
        server.gate.wait(30)
        if answer.hang:
            server.closing.wait(30)
        if answer.send is None:
            self.wfile.write(body[middle:])

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the tests' output clean."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with FileServer() as running:
        running.body = bytes(range(256)) * 2000
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield running
        running.closing.set()
        running.gate.set()
        running.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def tiny_weights() -> bytes:
    """A state dict of MobileNetV2 at width 0.1 with 7 classes, as `torch.save` writes it."""
    import torch

    from mobilenets.arch import arch_named, plan
    from mobilenets.nn.network import build

    torch.manual_seed(0)
    network = build(plan(arch_named("mobilenet_v2"), width=0.1, classes=7))
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    return file.getvalue()
