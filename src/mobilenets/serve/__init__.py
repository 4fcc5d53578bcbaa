"""The `serve` verb: models as a service over HTTP, with a page for people.

    POST /v1/predict?model=&top=&threshold=&explain=    pictures in, {"model", "items"} out
    GET  /v1/models, /v1/model, /v1/report, /v1/confusion, /v1/report.html
    GET  /healthz, /readyz, /metrics, /openapi.json, /docs, and the page at /

An item is what `predict --json` prints for a picture, with `width`, `height`, `ms`, `model_ms` and, where it was asked
for, `heat`. Whatever is no answer is `{"error": "one line"}` with a status: see `schema.MEANINGS`. docs/serve.md tells
the rest.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mobilenets.client import KEY_VARIABLE
from mobilenets.errors import InputError, MissingExtraError
from mobilenets.serve.limits import MEBIBYTE, Limits


@dataclass(frozen=True)
class ServeResult:
    """Say what a service did that has ended."""

    address: str
    models: tuple[str, ...]
    requests: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.requests:,} requests answered in {self.seconds:,.0f} seconds"

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "address": self.address,
            "models": list(self.models),
            "requests": self.requests,
            "seconds": round(self.seconds, 3),
        }


def serve(
    *models: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    runtime: str | None = None,
    threads: int | None = None,
    batch_size: int = 8,
    queue: int = 64,
    timeout: float = 10.0,
    max_megabytes: int = 16,
    max_megapixels: int = 50,
    api_key: str | None = None,
    api_key_file: Path | None = None,
    allow_host: tuple[str, ...] | None = None,
    quiet: bool = False,
) -> ServeResult:
    """Answer over HTTP, for programs and, with a page, for people, until told to end.

    Open http://127.0.0.1:8000 in a browser. Pictures that come while others are computed are computed together.
    SIGTERM or Ctrl-C ends the service when what was sent to it is answered.

    Args:
        models: Checkpoints, exported files, or names of published weights; NAME=MODEL gives one a name of its own.
        host: The address to listen on; 0.0.0.0 for everybody who can reach this machine.
        port: The port; 0 takes a free one.
        runtime: What computes: torch, onnx, openvino, litert, engine, reference. By default the engine, which
            is compiled when the service starts, where it is installed and the fastest; else the first installed.
        threads: How many the computation may use.
        batch_size: How many pictures are computed at a time at most.
        queue: How many pictures of a model may wait; what comes beyond is refused with status 503.
        timeout: Seconds until a request is given up with status 504.
        max_megabytes: The largest body of a request.
        max_megapixels: The largest picture; it is refused before it is decoded.
        api_key: What requests must carry in `Authorization: Bearer KEY`. Others on this machine see it in the list of
            processes: better use the environment variable MOBILENETS_API_KEY or a file.
        api_key_file: A file that has the key.
        allow_host: Further names that the service is asked by, as behind a proxy; what it is bound to always counts.
        quiet: Do not note each request on standard error.

    Returns:
        How many requests were answered.

    Raises:
        InputError: no model, two of one name, a limit that cannot be meant, or a port that is taken.
        MissingExtraError: FastAPI, uvicorn, python-multipart or prometheus-client is not installed.
    """
    for package, module in _PACKAGES.items():
        if find_spec(module) is None:
            raise MissingExtraError(package, "serve")
    from mobilenets.serve.running import run

    asked = {
        "--batch-size": batch_size,
        "--queue": queue,
        "--timeout": timeout,
        "--max-megabytes": max_megabytes,
        "--max-megapixels": max_megapixels,
    }
    for flag, value in asked.items():
        if not value > 0:
            raise InputError(f"{flag} must be above 0, not {value}")
    limits = Limits(
        body_bytes=max_megabytes * MEBIBYTE,
        pixels=max_megapixels * 1_000_000,
        batch=batch_size,
        waiting=queue,
        deadline_s=timeout,
    )
    key = _key(api_key, api_key_file)
    return run(models, host, port, runtime, threads, limits, key, allow_host or (), quiet=quiet)


_PACKAGES = {
    "fastapi": "fastapi",
    "uvicorn": "uvicorn",
    "prometheus-client": "prometheus_client",
    "python-multipart": "python_multipart",
}


def _key(given: str | None, file: Path | None) -> str | None:
    """Return the API key: as given, from the file, or from the environment; None where there is none."""
    if given is not None and file is not None:
        raise InputError("--api-key and --api-key-file: give one of them")
    if file is not None:
        try:
            given = file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise InputError(f"{file}: the API key cannot be read ({error.strerror})") from None
        except UnicodeDecodeError:
            raise InputError(f"{file}: not UTF-8 text: write the API key into it, and nothing else") from None
    elif given is None:
        given = os.environ.get(KEY_VARIABLE)
    if given is not None and (not given or not given.isascii() or not given.isprintable() or " " in given):
        raise InputError("the API key must be printable ASCII without spaces, and not empty")
    return given
