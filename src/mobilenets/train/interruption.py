"""Ctrl-C, taken when the step under way is done."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class Interruption:
    """While entered, the first Ctrl-C only sets `asked`; the second one interrupts at once.

    Does nothing where `catch` is False or outside the main thread, which alone gets signals.
    """

    def __init__(self, *, catch: bool = True) -> None:
        self.asked = False
        self._catch = catch and threading.current_thread() is threading.main_thread()
        self._before: Any = None

    def __enter__(self) -> Self:
        if self._catch:
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._catch:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a handler's signature
        self.asked = True
        signal.signal(number, self._before)
