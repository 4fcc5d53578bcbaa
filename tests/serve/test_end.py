"""A whole process, told to end while it is busy."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from tests.serve.clients import picture

CLIENTS = 6
BODY = picture()


@dataclass
class Count:
    """What one client saw."""

    answered: int = 0
    lost: int = 0


def send_until_refused(port: int, count: Count) -> None:
    """Send picture after picture. Lost is what was sent on a connection that has answered before, or half answered."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    fresh = True
    while True:
        try:
            connection.request("POST", "/v1/predict", BODY, {"Content-Type": "image/png"})
            answer = connection.getresponse()
            assert answer.status == 200
            answer.read()
        except OSError:
            count.lost += not fresh  # a fresh connection may never have been accepted
            return
        count.answered += 1
        fresh = answer.getheader("Connection") == "close"


def test_every_request_is_answered(colours: Path) -> None:
    command = [sys.executable, "-m", "mobilenets", "serve", str(colours), "--runtime", "reference", "--port", "0"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stderr is not None
    assert process.stdout is not None
    try:
        port = None
        while port is None:
            line = process.stderr.readline()
            assert line, "the service ended before it began"
            found = re.search(r"listening on http://127.0.0.1:(\d+)", line)
            port = found and int(found[1])
        drain = threading.Thread(target=process.stderr.read, daemon=True)
        drain.start()
        counts = [Count() for _ in range(CLIENTS)]
        clients = [threading.Thread(target=send_until_refused, args=(port, count)) for count in counts]
        for client in clients:
            client.start()
        while sum(count.answered for count in counts) < 5 * CLIENTS:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        for client in clients:
            client.join()
        output = process.stdout.read()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert sum(count.lost for count in counts) == 0
    answered = sum(count.answered for count in counts)
    assert output.startswith(f"{answered} requests answered in ")
    drain.join()
    process.stderr.close()
