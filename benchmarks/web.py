"""The time of one picture in the browser: exported pages, opened in Chromium, shown one photograph after the other.

    python -m benchmarks.web FOLDER MODEL [MODEL ...] [--pictures 5] [--rounds 8]

FOLDER has photographs. Every MODEL, a checkpoint or the name of published weights, gets a page of its own; the pages
take turns, picture by picture, so that a disturbance meets all alike. The page's own clock counts, from the file to the
answer that is shown: decoding, resizing, the network, and a detector's boxes. Chromium runs without a window, with as
many threads as the page takes by itself. Playwright and Chromium must be installed.
"""

from __future__ import annotations

import argparse
import re
import shutil
import tempfile
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import mobilenets
from benchmarks.environment import Figure, installed, write
from mobilenets.formats.web_folder import model_name

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp"}
PATIENCE_MS = 120_000
WARM_UP = 2


class Quiet(SimpleHTTPRequestHandler):
    """Any static server."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main() -> None:
    """Export, open, show, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--pictures", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=8)
    given = parser.parse_args()
    from playwright.sync_api import sync_playwright

    paths = sorted(path for path in given.folder.iterdir() if path.suffix.lower() in SUFFIXES)[: given.pictures]
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None or not paths:
        raise SystemExit("no Chromium is installed" if chromium is None else f"{given.folder}: no pictures")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        pages, details = {}, {}
        for model in given.models:
            name = model_name(model)
            mobilenets.export(model, to="web", out=Path(folder) / name, images=1)
            pages[name], details[name] = opened(browser, f"http://127.0.0.1:{server.server_port}/{name}/")
        shown: dict[str, list[dict[str, float]]] = {name: [] for name in pages}
        for turn in range(WARM_UP + given.rounds):
            for path in paths:
                for name, page in pages.items():
                    answer = times_ms(page, path)
                    if turn >= WARM_UP:
                        shown[name].append(answer)
        version = browser.version
        browser.close()
        server.shutdown()
        server.server_close()
    figures = [figure for name, times in shown.items() for figure in figures_of(name, times, details[name])]
    for each in figures:
        print(f"{each.what}: {each.value:.4g} {each.unit}")
    about = {"chromium": version, "playwright": installed("playwright"), "pictures": len(paths)}
    write("web", figures, {**about, "pages": details, "times_ms": shown})


def opened(browser: Browser, address: str) -> tuple[Page, dict[str, Any]]:
    """Open a page twice; return it, and how long it took to be ready the first time and from its own cache."""
    page = browser.new_context().new_page()
    page.set_default_timeout(PATIENCE_MS)
    began = time.perf_counter()
    page.goto(address)
    ready(page)
    first = time.perf_counter() - began
    page.locator("html[data-offline=ready]").wait_for(state="attached")
    began = time.perf_counter()
    page.reload()
    ready(page)
    again = time.perf_counter() - began
    isolated = bool(page.evaluate("crossOriginIsolated"))
    return page, {"ready_s": first, "again_s": again, "where": page.inner_text("#where"), "isolated": isolated}


def ready(page: Page) -> None:
    """Wait until the model is loaded."""
    page.wait_for_selector(".chips span")
    page.wait_for_selector(".loading", state="hidden")


def times_ms(page: Page, path: Path) -> dict[str, float]:
    """Show a picture; return what the page says of its time, step by step."""
    page.evaluate("document.querySelector('.times').hidden = true")
    page.set_input_files("#file", str(path))
    page.wait_for_selector(f"img[alt='{path.name}']")
    page.wait_for_selector(".times:not([hidden])")
    steps = re.findall(r"([a-z][a-z ]*?) ([\d.]+) (ms|s)\b", page.inner_text(".steps"))
    taken = {name: float(value) * (1000 if unit == "s" else 1) for name, value, unit in steps}
    value, unit = page.inner_text("[data-time=total]").split()
    return {**taken, "total": float(value) * (1000 if unit == "s" else 1)}


def figures_of(name: str, times: list[dict[str, float]], details: dict[str, Any]) -> list[Figure]:
    """Return the medians of a page, and the least."""
    total, network = ([each[key] for each in times] for key in ("total", "network"))
    return [
        Figure(f"{name}: a picture in the browser", median(total), "ms", "shown on the page"),
        Figure(f"{name}: at best", min(total), "ms", "beside it"),
        Figure(f"{name}: of that, the network", median(network), "ms", "beside it"),
        Figure(f"{name}: first visit to ready", details["ready_s"], "s", "beside it"),
        Figure(f"{name}: ready again, from its own cache", details["again_s"], "s", "beside it"),
    ]


if __name__ == "__main__":
    main()
