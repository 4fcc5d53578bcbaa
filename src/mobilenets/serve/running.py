"""Bring a service up, keep it running, and say how it went."""

from __future__ import annotations

import logging
import socket
import sys
import time
from collections.abc import Collection, Sequence
from contextlib import closing

import uvicorn
from starlette.types import ASGIApp

from mobilenets.errors import InputError
from mobilenets.serve import ServeResult
from mobilenets.serve.app import create_app
from mobilenets.serve.guard import State, names_for
from mobilenets.serve.limits import Limits
from mobilenets.serve.model import open_models
from mobilenets.serve.protocol import KEEP_ALIVE_S, GuardedProtocol, Server
from mobilenets.serve.service import Service

log = logging.getLogger("mobilenets.serve")
BACKLOG = 1024


def run(
    models: Sequence[str],
    host: str,
    port: int,
    runtime: str | None,
    threads: int | None,
    limits: Limits,
    api_key: str | None,
    allow_host: Collection[str],
    *,
    quiet: bool,
) -> ServeResult:
    """Serve until told to end; the arguments are those of `mobilenets.serve`."""
    _log_to_stderr(quiet=quiet)
    with closing(bound(host, port)) as listener:  # before the models are loaded: a port that is taken is known at once
        address = _address(listener)
        service = Service(open_models(models, runtime, threads), limits)
        app = create_app(service, api_key=api_key, hosts=names_for(host, allow_host))
        server = server_for(app, service.state, limits)
        for model in service.models.values():
            log.warning("%s: %s, %s", model.name, model.card.arch.name, model.runtime)
        log.warning("listening on %s (Ctrl-C ends)", address)
        began = time.monotonic()
        server.run([listener])
    return ServeResult(address, tuple(service.models), server.server_state.total_requests, time.monotonic() - began)


def server_for(app: ASGIApp, state: State, limits: Limits) -> Server:
    """Return a server for the application, not yet running."""
    protocol = type("Protocol", (GuardedProtocol,), {"limits": limits})
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=limits.header_bytes,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=round(limits.body_s + limits.deadline_s) + 1,
    )
    return Server(config, state)


def bound(host: str, port: int) -> socket.socket:
    """Return a socket that has the address and does not listen yet; raises InputError where it cannot be had."""
    if not 0 <= port <= 65535:
        raise InputError(f"--port must be from 0 to 65535, not {port}")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{host}:{port}: cannot listen there ({reason}): choose another --host or --port") from None
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _log_to_stderr(*, quiet: bool) -> None:
    """Send our lines, and uvicorn's errors, to standard error: without pictures, addresses' queries or keys."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    for name, level in (
        ("mobilenets.serve", logging.WARNING if quiet else logging.INFO),
        ("uvicorn.error", logging.ERROR),
    ):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
