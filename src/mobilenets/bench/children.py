"""The parent's side: one child process for each configuration, kept alive, and stopped while others take their turn."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from types import TracebackType
from typing import Any, Self

from mobilenets.bench.configuration import Job

COMMAND = (sys.executable, "-m", "mobilenets.bench.worker")
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_LAST_CHARACTERS = 300  # of what a child said before it died


class ChildError(Exception):
    """A child that could not do what it was asked; says why in one line."""


class Child:
    """One child process, by default stopped: it has the processor only while it is asked something.

    Stopping it (SIGSTOP, where there is one) keeps threads that wait for work by spinning out of the others' times.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
        environment = os.environ | dict.fromkeys(_THREAD_VARIABLES, str(job.threads))
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env=environment,
            text=True,
            encoding="utf-8",
        )
        self._stopped = False

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send a request and return its answer.

        Raises:
            ChildError: the child says that it cannot, has died, or took too long; then it is ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stop(stopped=False)
        late = threading.Event()
        timer = threading.Timer(timeout_s, self._end_late, (late,))
        timer.daemon = True
        timer.start()
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:  # the pipe is broken: it has died
            line = ""
        finally:
            timer.cancel()
        if not line.endswith("\n"):
            self._process.kill()
            code = self._process.wait()
            reason = f"took longer than {timeout_s:g} s and was ended" if late.is_set() else self._death(code)
            raise ChildError(reason)
        self._stop(stopped=True)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ChildError(answer["error"])
        return answer

    def close(self) -> None:
        """End the process at once, stopped or not, and wait until it is gone."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:  # a request that nobody reads any more
                    continue
        self._said.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _stop(self, *, stopped: bool) -> None:
        """Take the processor from the child, or give it back."""
        if stopped == self._stopped or not hasattr(signal, "SIGSTOP"):
            return
        self._process.send_signal(signal.SIGSTOP if stopped else signal.SIGCONT)
        self._stopped = stopped

    def _end_late(self, late: threading.Event) -> None:
        late.set()
        self._process.kill()

    def _death(self, code: int) -> str:
        """Say how the child ended, with the last thing it said."""
        if code < 0 and -code in {each.value for each in signal.Signals}:
            how = f"the process was ended by {signal.Signals(-code).name}"
        else:
            how = f"the process ended with code {code}"
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"{how}: {last[-_LAST_CHARACTERS:]}" if last else how
