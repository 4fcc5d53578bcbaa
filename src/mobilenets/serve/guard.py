"""What every request passes: is it meant for us, may it ask, what goes with its answer, what is counted and noted."""

from __future__ import annotations

import hmac
import ipaddress
import json
import logging
import time
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mobilenets import page
from mobilenets.serve.limits import RefusedError
from mobilenets.serve.metrics import Metrics

log = logging.getLogger("mobilenets.serve")

PROTECTED = ("/v1/", "/metrics")
"""Where an API key is asked for: what models say. The page's own files and the probes are open."""


@dataclass
class State:
    """Whether the service takes work. `draining`: it finishes what it has, and goes."""

    draining: bool = False


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        state: State,
        metrics: Metrics,
        paths: Collection[str],
        api_key: str | None,
        hosts: Collection[str] | None,
        header_bytes: int,
    ) -> None:
        """Wrap `app`; `hosts` are the names it may be asked by, None for any; `paths` those that are counted."""
        self._header_bytes = header_bytes
        self._app, self._state, self._metrics, self._paths = app, state, metrics, frozenset(paths)
        self._key = None if api_key is None else api_key.encode()
        self._hosts = None if hosts is None else frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the application answer, with everything that goes around an answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def wrapped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._dress(MutableHeaders(raw=message.setdefault("headers", [])))
            await send(message)

        self._metrics.in_flight.inc()
        try:
            self._check(scope)
            await self._app(scope, receive, wrapped)
        except RefusedError as refused:
            await _refuse(refused, wrapped)
        finally:
            self._metrics.in_flight.dec()
            seconds = time.perf_counter() - began
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.answered(path, status, seconds)
            client = scope["client"][0] if scope.get("client") else "-"
            log.info("%s %s %s %d %.1f ms", client, scope["method"], _shown(scope["path"]), status, 1000 * seconds)

    def _check(self, scope: Scope) -> None:
        address = len(scope["raw_path"]) + len(scope["query_string"])
        if address + sum(len(name) + len(value) for name, value in scope["headers"]) > self._header_bytes:
            raise RefusedError(431, f"the header is larger than {self._header_bytes:,} bytes")
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._hosts is not None and _name(host) not in self._hosts:
            # A page elsewhere may have its own name point here (DNS rebinding); browsers would let it read our answers.
            raise RefusedError(421, "this service is not asked by that name: start it with --allow-host NAME")
        origin = headers.get("origin")
        if scope["method"] not in {"GET", "HEAD"} and (
            headers.get("sec-fetch-site") == "cross-site" or (origin and urlsplit(origin).netloc != host)
        ):
            raise RefusedError(403, "requests from pages of another origin are not answered")
        if self._key is not None and scope["path"].startswith(PROTECTED) and not self._knows(headers):
            raise RefusedError(401, "this service asks for its key: send the header Authorization: Bearer KEY")

    def _knows(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        assert self._key is not None
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), self._key)

    def _dress(self, headers: MutableHeaders) -> None:
        for name, value in page.HEADERS.items():
            headers.setdefault(name, value)
        headers.setdefault("Cache-Control", "no-store")
        if self._state.draining:
            headers["Connection"] = "close"


def names_for(host: str, allowed: Collection[str]) -> frozenset[str] | None:
    """Return the names that a service bound to `host` is asked by: None for any, where it is open to others.

    >>> sorted(names_for("127.0.0.1", ()) or ())
    ['127.0.0.1', '::1', 'localhost']
    """
    if allowed:
        return frozenset({host, *allowed})
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    return frozenset({"localhost", "127.0.0.1", "::1", host}) if loopback else None


def _name(host: str) -> str:
    """Return the name in a Host header, without port and brackets."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _shown(path: str) -> str:
    """Return a path for the log: short, on one line."""
    return path[:80].encode("ascii", "backslashreplace").decode() if path.isprintable() else repr(path[:80])


async def _refuse(refused: RefusedError, send: Send) -> None:
    content = json.dumps({"error": refused.reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in extra_headers(refused).items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def extra_headers(refused: RefusedError) -> dict[str, str]:
    """Return the headers that go with a status."""
    headers = {} if refused.retry_s is None else {"Retry-After": str(refused.retry_s)}
    return {**headers, "WWW-Authenticate": "Bearer"} if refused.status == 401 else headers
