"""HTTP connections that do not wait for ever: a guard around uvicorn's protocol, and a server that ends gently."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from mobilenets import page
from mobilenets.serve.guard import State
from mobilenets.serve.limits import Limits

log = logging.getLogger("mobilenets.serve")

KEEP_ALIVE_S = 15
"""An idle connection is kept that long."""
LAST_REQUESTS_S = 0.5
"""How long a service that ends still listens: what is on its way to it is answered, too."""
LONGEST_END_S = 5.0
"""After that it listens no more, only finishes."""


class GuardedProtocol(H11Protocol):
    """One connection, with a clock for whatever its client should do next.

    uvicorn's own clock covers an idle connection after an answer. This one covers a header that does not come or does
    not end, a body that goes on after its answer, and an answer that is not read. A body before its answer has the
    application's clock.
    """

    limits: ClassVar[Limits]
    _clock: asyncio.TimerHandle | None = None
    _waits_for: str | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock for the first header; turn away who is one too many."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._turn_away(503, "too many connections: try again", (b"retry-after", b"1"))
            return
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Read, then see what is waited for now."""
        if not self.transport.is_closing():
            super().data_received(data)
            self._watch()

    def on_response_complete(self) -> None:
        """Go on with the clock of what follows an answer."""
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        """Start the clock of a client that does not read."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """Stop it."""
        super().resume_writing()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        super().connection_lost(exc)
        self._set_clock(None)

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, at once where its client has not read the last answer."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, as JSON; 431 for a header beyond the limit."""
        del msg
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.abort()
        elif len(self.conn.trailing_data[0]) > self.limits.header_bytes:
            self._turn_away(431, f"the header is larger than {self.limits.header_bytes:,} bytes")
        else:
            self._turn_away(400, "this is no HTTP request")

    def _watch(self) -> None:
        """Set the clock by what is waited for; the same thing keeps the time it has."""
        self._set_clock(self._awaited())

    def _awaited(self) -> str | None:
        if self.transport.is_closing():
            return "the end" if self.transport.get_write_buffer_size() else None
        if self.flow.write_paused:
            return "reading"
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            return None
        if self.conn.their_state is h11.SEND_BODY:
            return "a body nobody wants"
        return "a header" if cycle is None or self.timeout_keep_alive_task is None else None

    def _set_clock(self, waits_for: str | None) -> None:
        if waits_for == self._waits_for:
            return
        self._waits_for = waits_for
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None
        if waits_for is not None:
            self._clock = self.loop.call_later(self.limits.header_s, self._out_of_time)

    def _out_of_time(self) -> None:
        self._clock = None
        if self._waits_for == "a header" and self.conn.our_state is h11.IDLE:
            self._turn_away(408, f"no request within {self.limits.header_s:g} seconds")
            self.loop.call_later(1, self.transport.abort)  # a client that does not read, either
        else:
            self.transport.abort()

    def _turn_away(self, status: int, reason: str, *more: tuple[bytes, bytes]) -> None:
        content = json.dumps({"error": reason}).encode()
        headers = [(name.encode(), value.encode()) for name, value in page.HEADERS.items()]
        headers += [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        headers += [(b"connection", b"close"), *more]
        for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=content), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class Server(uvicorn.Server):
    """A server that, told to end, first answers everything that was sent to it."""

    def __init__(self, config: uvicorn.Config, state: State) -> None:
        super().__init__(config)
        self._state = state

    async def shutdown(self, sockets: Any = None) -> None:
        """Say `Connection: close` with every answer, take what is still on its way, then close what is idle.

        Clients hear that their connection ends before it does, so none sends into a closed one. Nobody can put the end
        off: new connections are not taken, and those there are have one more answer each.
        """
        self._state.draining = True
        await asyncio.sleep(0.05)  # connections that wait to be accepted
        for server in self.servers:
            server.close()
        log.info("ending: %d requests are in work", len(self.server_state.tasks))
        quiet_since = begun = time.monotonic()
        while not self.force_exit and self.server_state.connections:
            answered = self.server_state.total_requests
            await asyncio.sleep(0.05)
            now = time.monotonic()
            if self.server_state.tasks or self.server_state.total_requests != answered:
                quiet_since = now
            if now - quiet_since > LAST_REQUESTS_S or now - begun > LONGEST_END_S:
                break
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take SIGTERM and Ctrl-C as the wish to end; a second Ctrl-C does not wait. Both end with exit code 0."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {each: signal.signal(each, self.handle_exit) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)
