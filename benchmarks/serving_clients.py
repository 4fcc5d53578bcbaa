"""Clients that keep a service busy until it goes, and count what became of everything they sent."""

from __future__ import annotations

import http.client
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass

PATIENCE_S = 30


@dataclass
class Count:
    """What one client saw: answers, those of them that were refusals, and requests without a whole answer."""

    answered: int = 0
    refused: int = 0
    lost: int = 0


@dataclass(frozen=True)
class End:
    """How a service ended under load.

    `counted` is how many of the requests the service itself says it answered, `exit_code` its own, `seconds` how long
    it took from the signal to the end of the process.
    """

    answered: int
    refused: int
    lost: int
    counted: int
    exit_code: int
    seconds: float


class Service:
    """A service in a process of its own; `ready_s` is how long it took to its first sign of being ready."""

    def __init__(self, model: str, *options: str) -> None:
        self._asked_ready = 0
        began = time.perf_counter()
        command = [sys.executable, "-m", "mobilenets", "serve", model, "--port", "0", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.address = self._listening()
        self._drain = threading.Thread(target=self._read_all, daemon=True)
        self._drain.start()
        while not self._ready():
            time.sleep(0.005)
        self.ready_s = time.perf_counter() - began

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.address.rpartition(":")[2])

    def end_under_load(self, body: bytes, kind: str, clients: int, answers: int) -> End:
        """Send pictures from many clients; once so many are answered, tell the service to end; count what happened."""
        counts = [Count() for _ in range(clients)]
        senders = [threading.Thread(target=send_until_refused, args=(self.port, body, kind, each)) for each in counts]
        for sender in senders:
            sender.start()
        while sum(count.answered for count in counts) < answers and self.process.poll() is None:
            time.sleep(0.01)
        before = time.perf_counter()
        self.process.send_signal(signal.SIGTERM)
        for sender in senders:
            sender.join()
        assert self.process.stdout is not None
        said = self.process.stdout.read()
        exit_code = self.process.wait(PATIENCE_S)
        seconds = time.perf_counter() - before
        found = re.match(r"([\d,]+) requests answered", said)
        return End(
            sum(count.answered for count in counts),
            sum(count.refused for count in counts),
            sum(count.lost for count in counts),
            int(found[1].replace(",", "")) - self._asked_ready if found else 0,
            exit_code,
            seconds,
        )

    def close(self) -> None:
        """End the process, if it has not ended, and free what it was read by."""
        self.process.terminate()
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._drain.join()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    def _listening(self) -> str:
        assert self.process.stderr is not None
        said: list[str] = []
        for line in self.process.stderr:
            if found := re.search(r"listening on (\S+)", line):
                return found[1]
            said.append(line)
        raise SystemExit("the service did not start: " + "".join(said)[-500:])

    def _read_all(self) -> None:
        assert self.process.stderr is not None
        for _ in self.process.stderr:
            pass

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/readyz") as answer:  # noqa: S310  # our own service
                self._asked_ready += 1
                return bool(answer.status == 200)
        except OSError:
            return False


def send_until_refused(port: int, body: bytes, kind: str, count: Count) -> None:
    """Send picture after picture, until no connection is taken any more.

    Lost is what was sent on a connection that has answered before, or was answered in part: what a fresh connection is
    refused was never accepted.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    fresh = True
    while True:
        try:
            connection.request("POST", "/v1/predict", body, {"Content-Type": kind})
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            count.lost += not fresh
            connection.close()
            return
        count.answered += 1
        count.refused += answer.status != 200
        fresh = answer.getheader("Connection") == "close"


def first_answers_ms(address: str, pictures: Sequence[bytes], kind: str) -> list[float]:
    """Return how long pictures take one after the other, each on a connection of its own, from sending to all of it."""
    times = []
    for content in pictures:
        request = urllib.request.Request(f"{address}/v1/predict", content, {"Content-Type": kind})  # noqa: S310
        start = time.perf_counter()
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            answer.read()
        times.append(1000 * (time.perf_counter() - start))
    return times
