"""Ask a service that `mobilenets serve` runs: pictures there, the same results back."""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from mobilenets.detections import Detection, Detections
from mobilenets.errors import InputError
from mobilenets.results import Classification, Prediction

KEY_VARIABLE = "MOBILENETS_API_KEY"
"""The environment variable with the key, for a service that asks for one."""

TIMEOUT_S = 60.0
ATTEMPTS = 5
"""How often a picture is sent to a service that says it is busy, or that closes its connection."""


def ask(
    url: str, model: str, paths: Sequence[Path], *, top: int = 5, min_score: float = 0.5
) -> Iterator[Classification | Detections]:
    """Yield what a service says of pictures, in their order; one it cannot read has an error that says why.

    Args:
        url: as in http://127.0.0.1:8000, with a path where a proxy has the service below one.
        model: what the service calls the model, or the model that was given to it: its file's name tells.
        paths: picture files; they are sent as they are.
        top: how many classes to name.
        min_score: of a detector: leave out boxes that it is less sure of.

    Raises:
        InputError: the service cannot be reached, serves no such model, asks for a key, or fails.
    """
    with closing(_Service(url)) as service:
        served = {each["name"]: each for each in service.get("/v1/models")["models"]}
        name = model if model in served else Path(model).stem
        if name not in served:
            raise InputError(f"{url}: no model is called {name!r} there: it serves {', '.join(served)}")
        detector = served[name]["task"] == "detection"
        query = {"model": name, **({"threshold": min_score} if detector else {"top": top})}
        for path in paths:
            item = service.predict(path, query)
            error = item.get("error")
            if detector:
                yield Detections(str(path), tuple(_detection(each) for each in item.get("detections", [])), error)
            else:
                predictions = tuple(Prediction(**each) for each in item.get("predictions", []))
                yield Classification(str(path), predictions, error)


def _detection(item: dict[str, Any]) -> Detection:
    return Detection(item["label"], item["index"], item["score"], tuple(item["box"]))


class _Service:
    """One connection, opened again when it was closed."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
        try:
            self._connection = kinds[parts.scheme](parts.hostname or "", parts.port, timeout=TIMEOUT_S)
        except (KeyError, ValueError):
            raise InputError(f"{url}: not the address of a service: write it as http://127.0.0.1:8000") from None
        self._url, self._path = url, parts.path.rstrip("/")
        key = os.environ.get(KEY_VARIABLE)
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}

    def get(self, address: str) -> Any:
        """Return the JSON at an address."""
        status, document = self._ask("GET", address, None, {})
        if status != 200:
            raise self._failure(status, document)
        return document

    def predict(self, path: Path, query: dict[str, Any]) -> dict[str, Any]:
        """Return the item of one picture."""
        try:
            content = path.read_bytes()
        except OSError as error:
            reason = error.strerror or error
            return {"error": f"{path}: cannot be read ({reason}): check the path"}
        headers = {"Content-Type": "application/octet-stream"}
        status, document = self._ask("POST", f"/v1/predict?{urlencode(query)}", content, headers)
        if status in {413, 415, 422}:  # the picture's fault; the service calls it `picture`
            return {"error": f"{path}: {str(document.get('error', status)).removeprefix('picture: ')}"}
        if status != 200:
            raise self._failure(status, document)
        item: dict[str, Any] = document["items"][0]
        return item

    def _ask(self, method: str, address: str, content: bytes | None, headers: dict[str, str]) -> tuple[int, Any]:
        problem = ""
        for attempt in range(ATTEMPTS):
            try:
                self._connection.request(method, self._path + address, content, {**headers, **self._headers})
                answer = self._connection.getresponse()
                document = json.loads(answer.read())
            except (http.client.HTTPException, ValueError) as error:
                self._connection.close()
                problem = f"{type(error).__name__}: {error}"
            except OSError as error:
                self._connection.close()
                if attempt and isinstance(error, ConnectionRefusedError):
                    break
                problem = error.strerror or str(error)
            else:
                if answer.status != 503:
                    return answer.status, document
                problem = str(document.get("error", "busy"))
                time.sleep(min(float(answer.headers.get("Retry-After", "1")), 10.0))
        raise InputError(f"{self._url}: the service does not answer ({problem}): is it running there?")

    def _failure(self, status: int, document: Any) -> InputError:
        reason = document.get("error", "") if isinstance(document, dict) else ""
        remedy = f": set {KEY_VARIABLE}" if status == 401 else ""
        return InputError(f"{self._url}: the service answers {status} ({reason}){remedy}")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
