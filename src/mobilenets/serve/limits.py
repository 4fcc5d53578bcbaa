"""How much a service takes on, and what it says when that is too much."""

from __future__ import annotations

from dataclasses import dataclass

from mobilenets.errors import InputError

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What one service accepts. Raises InputError for values that cannot be meant.

    `waiting` pictures of a model may be in work at once, from the arrival of their request to its answer; `batch` of
    them are computed together. `deadline_s` counts from the moment a request is complete, `body_s` is the time that its
    body may take, `header_s` that of its header, and of a client that is slow to read.
    """

    body_bytes: int = 16 * MEBIBYTE
    pixels: int = 50_000_000
    pictures: int = 16
    waiting: int = 64
    batch: int = 8
    deadline_s: float = 10.0
    header_s: float = 10.0
    body_s: float = 30.0
    header_bytes: int = 16 * 1024
    held_bytes: int = 256 * MEBIBYTE  # all bodies that are in memory at one time
    connections: int = 512

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise InputError(f"the limit {name} must be above 0, not {value}")
        if self.waiting < self.pictures:
            raise InputError(f"--queue must be {self.pictures} or more: one request may bring that many pictures")


class RefusedError(Exception):
    """A request that gets no answer but a status and one line that says why; `retry_s` is sent as Retry-After."""

    def __init__(self, status: int, reason: str, retry_s: int | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.retry_s = status, reason, retry_s


class Places:
    """A number of things that may be held at once. Used from the event loop alone, so it needs no lock."""

    def __init__(self, limit: int, reason: str) -> None:
        self._limit, self._reason, self.taken = limit, reason, 0

    def take(self, count: int) -> None:
        """Hold `count` more; raises RefusedError (503) where they are too many."""
        if self.taken + count > self._limit:
            raise RefusedError(503, self._reason, retry_s=1)
        self.taken += count

    def give_back(self, count: int) -> None:
        """Hold `count` fewer."""
        self.taken -= count
