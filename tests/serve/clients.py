"""Real servers on free ports, and clients that say exactly what they are told to."""

from __future__ import annotations

import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mobilenets.serve.app import create_app
from mobilenets.serve.guard import names_for
from mobilenets.serve.limits import Limits
from mobilenets.serve.model import open_models
from mobilenets.serve.running import bound, server_for
from mobilenets.serve.service import Service

LIMITS = Limits(
    body_bytes=2_000_000,
    pixels=100_000,
    pictures=4,
    waiting=16,
    header_s=0.6,
    body_s=0.6,
    header_bytes=8192,
    deadline_s=5,
)


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Live:
    """A running service."""

    port: int
    service: Service
    folder: Path
    headers: dict[str, str] = field(default_factory=dict)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            connection.request(method, path, body, {**self.headers, **given})
            answer = connection.getresponse()
            return Reply(answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read())

    def predict(self, body: bytes, query: str = "", kind: str = "image/png") -> Reply:
        return self.ask("POST", f"/v1/predict{query}", body, Content_Type=kind)

    def say(self, *pieces: bytes, pause_s: float = 0.0, hang_up: bool = False) -> int | None:
        """Send bytes as they are; return the status that comes back, None where the connection ends without."""
        with closing(socket.create_connection(("127.0.0.1", self.port), timeout=8)) as connection:
            try:
                for piece in pieces:
                    connection.sendall(piece)
                    time.sleep(pause_s)
                if hang_up:
                    connection.shutdown(socket.SHUT_WR)
            except (BrokenPipeError, ConnectionResetError):
                pass
            return status_of(connection)


def status_of(connection: socket.socket) -> int | None:
    received = b""
    try:
        while b"\r\n" not in received and (more := connection.recv(4096)):
            received += more
    except ConnectionResetError:
        return None
    return int(received.split(b" ")[1]) if received.startswith(b"HTTP/1.1 ") else None


@contextmanager
def running(folder: Path, *models: str, limits: Limits = LIMITS, api_key: str | None = None) -> Iterator[Live]:
    service = Service(open_models(models, "reference", None), limits)
    app = create_app(service, api_key=api_key, hosts=names_for("127.0.0.1", ()))
    with closing(bound("127.0.0.1", 0)) as listener:
        server = server_for(app, service.state, limits)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield Live(listener.getsockname()[1], service, folder)
        finally:
            server.should_exit = True
            thread.join()


def picture(colour: tuple[int, int, int] = (255, 0, 0), size: tuple[int, int] = (20, 16), kind: str = "PNG") -> bytes:
    """Return a picture file of one colour; `size` is (width, height)."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


def noise(kind: str, size: tuple[int, int] = (64, 64)) -> bytes:
    """Return a picture file that does not compress to nothing."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


BOUNDARY = "----------boundary"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


def form(*parts: tuple[str, bytes]) -> bytes:
    """Return a form of parts, each its header's lines and its content."""
    pieces = [f"--{BOUNDARY}\r\n{header}\r\n\r\n".encode() + content + b"\r\n" for header, content in parts]
    return b"".join([*pieces, f"--{BOUNDARY}--\r\n".encode()])


def file_header(name: str = "a.png", kind: str = "image/png") -> str:
    return f'Content-Disposition: form-data; name="image"; filename="{name}"\r\nContent-Type: {kind}'
