"""A browser, and somebody for the page to talk to."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image

from mobilenets import page as page_package
from mobilenets.errors import InputError
from mobilenets.image.decode import decode

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

COLOURS = ("red", "green", "blue")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed, so the page is not tested: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


class Visit:
    """A page that was opened, and what its console said."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda line: self._hear(line.type, line.text))

    def _hear(self, kind: str, text: str) -> None:
        # What tests read of a canvas is no concern of the page's.
        if kind in {"error", "warning"} and "willReadFrequently" not in text:
            self.complaints.append(text)

    def ready(self) -> None:
        """Wait until the model is loaded."""
        self.page.wait_for_selector(".chips span")
        self.page.wait_for_selector(".loading", state="hidden")

    def choose(self, *paths: Path) -> None:
        self.page.set_input_files("#file", [str(path) for path in paths])

    def answer(self, view: int = 0) -> list[tuple[str, float]]:
        """Wait for an answer, and return its lines: label and score as a share."""
        root = self.page.locator(".view").nth(view)
        root.locator(".bars li").first.wait_for()
        root.locator(".loading").wait_for(state="hidden")
        names = root.locator(".bars .name").all_inner_texts()
        scores = root.locator(".bars .score").evaluate_all("all => all.map(each => parseFloat(each.dataset.score))")
        return list(zip(names, scores, strict=True))


Open = Callable[..., Visit]


@pytest.fixture
def visit(browser: Browser, service: object, hosted: object) -> Iterator[Open]:  # noqa: ARG001  # pages close before servers
    """Return a function that opens an address: (address, *, width=1280, height=800, scheme="light")."""
    visits: list[Visit] = []

    def opened(address: str, *, width: int = 1280, height: int = 800, scheme: Any = "light") -> Visit:
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, permissions=["camera"]
        )
        visits.append(Visit(context.new_page()))
        visits[-1].page.goto(address)
        return visits[-1]

    yield opened
    for each in visits:
        each.page.context.close()
    assert [each.complaints for each in visits if each.complaints] == []


@contextmanager
def serving(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    """Answer requests with a handler, and yield the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Files(SimpleHTTPRequestHandler):
    """Any static server, without headers of its own."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hosted() -> Iterator[Callable[[Path], str]]:
    """Return a function that serves a folder, as any static server does, and returns its address."""
    with ExitStack() as servers:
        yield lambda folder: servers.enter_context(serving(partial(_Files, directory=str(folder))))


CARD: Mapping[str, Any] = {
    "task": "classification",
    "arch": {"name": "colours"},
    "width": 1.0,
    "resolution": [16, 16],
    "in_channels": 3,
    "labels": list(COLOURS),
    "preprocess": {
        "height": 16,
        "width": 16,
        "channels": 3,
        "resize": None,
        "interpolation": "bilinear",
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    },
    "precision": "float32",
    "metrics": [{"name": "top1", "value": 0.75, "dataset": "flags", "images": 8}],
    "recipe": {"epochs": 3},
    "origin": None,
    "parent": "ab" * 32,
    "notes": [],
}
CARDS = {
    "colours": {**CARD, "report": True},
    "others": {**CARD, "precision": "int8", "report": False},
    "finder": {**CARD, "task": "detection", "report": True},
}
REPORT = {
    "top1": 0.75,
    "top5": 1.0,
    "images": 8,
    "labels": list(COLOURS),
    "loss": 0.5,
    "data": "flags",
    "part": "val",
    "confusion": [[3, 0, 0], [1, 2, 0], [0, 1, 1]],
    "html": "report.html",
    "history": [{"epoch": n, "train_loss": 2.0 / n, "val_loss": 2.5 / n, "top1": n / 4} for n in (1, 2, 3)],
}
BOX_REPORT = {
    "map": 0.5,
    "map_50": 0.875,
    "images": 8,
    "per_class": [{"label": "red thing", "boxes": 12, "ap": 0.5, "ap_50": 0.875, "recall": None}],
    "history": [{"epoch": n, "train_loss": 2.0 / n, "val_map": n / 6} for n in (1, 2, 3)],
}


class Service:
    """Stands in for the service: it decodes what it is sent, and its models look at colours alone."""

    def __init__(self) -> None:
        self.at_once = self.most_at_once = self.answered = 0
        self.key = ""  # what to ask for, if anything
        self.lock = threading.Lock()

    def handler(self, *arguments: Any) -> BaseHTTPRequestHandler:
        return _Requests(self, *arguments)

    def predict(self, query: Mapping[str, str], body: bytes) -> tuple[int, Any]:
        try:
            picture = decode(body)
        except InputError as error:
            return 422, {"error": str(error)}
        height, width = picture.shape[:2]
        item: dict[str, Any] = {"image": "picture", "width": width, "height": height, "ms": 2.5, "model_ms": 1.0}
        shares = picture.reshape(-1, 3).mean(0) + 1e-3
        if query["model"] == "finder":
            item["detections"] = [each for each in self._found(picture) if each["score"] >= float(query["threshold"])]
            return 200, {"model": "finder", "items": [item]}
        scores = shares / shares.sum() if query["model"] == "colours" else np.roll(shares / shares.sum(), 1)
        order = np.argsort(-scores)[: int(query["top"])]
        kept = [i for i in order if scores[i] >= float(query["threshold"]) or i == order[0]]
        item["predictions"] = [{"label": COLOURS[i], "index": int(i), "score": float(scores[i])} for i in kept]
        if query.get("explain") == "true":
            item["heat"] = [[1.0, 0.0], [0.0, 0.0]]
        return 200, {"model": query["model"], "items": [item]}

    @staticmethod
    def _found(picture: np.ndarray) -> list[dict[str, Any]]:
        """Return a box around what is red, and one of little score around everything."""
        height, width = picture.shape[:2]
        rows, columns = np.nonzero((picture[:, :, 0] > 200) & (picture[:, :, 1:].max(2) < 60))
        if not len(rows):
            return []
        box = [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]
        return [
            {"label": "red thing", "score": 0.9, "box": box},
            {"label": "everything", "score": 0.3, "box": [0, 0, width, height]},
        ]


class _Requests(BaseHTTPRequestHandler):
    def __init__(self, service: Service, *arguments: Any) -> None:
        self.service = service
        super().__init__(*arguments)

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(address.query).items()}
        name = address.path.lstrip("/") or "index.html"
        answers: dict[str, Callable[[], Any]] = {
            "v1/models": lambda: {"models": [{"name": each} for each in CARDS]},
            "v1/model": lambda: CARDS[query["model"]],
            "v1/report": lambda: BOX_REPORT if query["model"] == "finder" else REPORT,
        }
        if name in answers and not self._knows():
            self._send(401, "application/json", b'{"error": "this service asks for its key"}')
        elif name in answers:
            self._send(200, "application/json", json.dumps(answers[name]()).encode())
        else:
            content = page_package.files().get(name)
            self._send(200 if content else 404, page_package.media_type(name), content or b"")

    def do_POST(self) -> None:
        service = self.service
        with service.lock:
            service.at_once += 1
            service.most_at_once = max(service.most_at_once, service.at_once)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        query = {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}
        status, document = service.predict(query, body)
        with service.lock:
            service.at_once -= 1
            service.answered += 1
        self._send(status, "application/json", json.dumps(document).encode())

    def _knows(self) -> bool:
        return not self.service.key or self.headers["Authorization"] == f"Bearer {self.service.key}"

    def _send(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        for key, value in {**page_package.HEADERS, "Content-Type": kind, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def service() -> Iterator[tuple[str, Service]]:
    """Yield the address of a service with three models, and the service."""
    standing_in = Service()
    with serving(standing_in.handler) as address:
        yield address, standing_in


@pytest.fixture
def flags(tmp_path: Path) -> list[Path]:
    """Return three pictures: mostly red, mostly green, and a red square on grey."""
    folder = tmp_path / "flags"
    folder.mkdir()
    paths = [folder / f"{name}.png" for name in ("red", "green", "square")]
    pictures = [np.full((120, 160, 3), 20, np.uint8) for _ in paths]
    pictures[0][:, :, 0] = 230
    pictures[1][:, :, 1] = 230
    pictures[2][:] = 120
    pictures[2][30:90, 40:100] = (250, 10, 10)
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path)
    return paths
