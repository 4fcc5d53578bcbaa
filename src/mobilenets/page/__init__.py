"""The page that people see: plain HTML, CSS and JavaScript modules, as files of this package.

It is the same page in two places. A service sends it and answers its requests; an exported folder runs the model in the
browser itself. `index.html` says which, in `<html data-backend="service">` or `"browser"`. All names are without
folders and all addresses in the files are relative, so the page works below any path. It requests nothing from
elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import PurePosixPath

_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".onnx": "application/octet-stream",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
}

BROWSER_ONLY = frozenset({"boxes.js", "browser.js", "engine.js", "network.js", "pixels.js"})
"""Files that a service need not send: they run the model in the browser."""

_BEHIND = frozenset({"package.json", "package-lock.json", "prove.js", "service-worker.js"})
"""Files that no browser asks a service for: see `behind`."""

SECURITY_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'; manifest-src 'self'; "
    "base-uri 'none'; form-action 'none'"
)
"""The Content-Security-Policy under which the page works: nothing from elsewhere, nothing written into the page."""

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": f"{SECURITY_POLICY}; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""What to send with the page's files. With the second and third, a model in the browser may use threads."""


def files() -> dict[str, bytes]:
    """Return the page's files, their content by name."""
    return {name: content for name, content in _all().items() if name not in _BEHIND}


def behind() -> dict[str, bytes]:
    """Return what only an exported folder needs.

    `package.json` and `package-lock.json` pin ONNX Runtime Web, `service-worker.js` keeps files for offline use, and
    `prove.js` runs a model of the folder in Node.
    """
    return {name: content for name, content in _all().items() if name in _BEHIND}


def _all() -> dict[str, bytes]:
    folder = resources.files(__name__)
    return {
        entry.name: entry.read_bytes()
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if entry.is_file() and PurePosixPath(entry.name).suffix in _MEDIA_TYPES
    }


def media_type(name: str) -> str:
    """Return what to send as the Content-Type of a file.

    >>> media_type("index.html")
    'text/html; charset=utf-8'
    """
    return _MEDIA_TYPES.get(PurePosixPath(name).suffix, "application/octet-stream")
