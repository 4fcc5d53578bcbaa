"""One file over HTTP: resumed where it stopped, verified, and there only when it is whole. Standard library only.

Proxies are taken from the environment (`https_proxy`, `no_proxy`). A file under way is `NAME.part`; it stays when the
network fails, and the next call goes on from there, also in another process. Two processes that want the same file
agree by a lock: one downloads, the other waits.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import re
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from mobilenets.errors import WeightsError

_CHUNK_BYTES = 1 << 16
_LARGEST_BYTES = 1_000_000_000  # no published network of this family has a tenth of it
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # HTTP codes that may be gone when asked again
_NO_NETWORK = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN}
_REMEDY = "download it elsewhere and pass --weights FILE"


class UnreachableError(WeightsError):
    """The server cannot be found, or there is no network at all."""


@dataclass(frozen=True, slots=True)
class Patience:
    """When to give up: seconds without a byte, attempts without progress, and the first pause between two of them.

    Every further pause is twice as long.
    """

    timeout_s: float = 20.0
    attempts: int = 4
    pause_s: float = 1.0


class _PassingError(Exception):
    """An attempt that failed in a way that may pass."""


def download(url: str, path: Path, *, sha256: str = "", patience: Patience | None = None) -> None:
    """Fetch a file, unless it is there already, and put it at `path` when it is whole and verified.

    Args:
        url: http or https.
        path: where it goes; folders are made as needed.
        sha256: its hexadecimal sha256, or as many leading digits as are known. With "" the sha256 that the server
            announces (the header `X-Linked-ETag`, as Hugging Face's hub sends it) is verified, if there is one.
        patience: when to give up.

    Raises:
        UnreachableError: no network, or no such server.
        WeightsError: the server refuses, the connection breaks again and again, what arrives is something else, or the
            folder cannot be written to; one line that says which, and what to do.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path) as locked:
            if path.is_file():
                return
            part = path.with_name(f"{path.name}.part" if locked else f"{path.name}.{os.getpid()}.part")
            try:
                _Transfer(url, part, sha256, patience or Patience()).run()
                part.replace(path)
            finally:
                if not locked:
                    part.unlink(missing_ok=True)  # nobody else would ever find it
            path.with_name(f".{path.name}.lock").unlink(missing_ok=True)  # whoever waits for it finds the file
    except OSError as error:
        raise unwritable(path.parent, error) from None


def unwritable(folder: Path, error: OSError) -> WeightsError:
    """Say that the cache cannot be written to, and what to do."""
    reason = error.strerror or error
    return WeightsError(
        f"{folder}: cannot be written ({reason}): free some space, or name another folder in MOBILENETS_CACHE"
    )


def digest(path: Path) -> str:
    """Return a file's sha256, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Redirects(HTTPRedirectHandler):
    """Follow redirections, never from https to http, and note the sha256 that the hub announces on the way."""

    def __init__(self) -> None:
        self.announced = ""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage, newurl: str
    ) -> Request | None:
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise WeightsError(f"{req.full_url}: leads to an unprotected address ({newurl}): {_REMEDY}")
        self.note(headers)
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def note(self, headers: http.client.HTTPMessage) -> None:
        tag = str(headers.get("X-Linked-ETag", "")).strip('"')
        if re.fullmatch("[0-9a-f]{64}", tag):
            self.announced = tag


class _Transfer:
    """One file on its way."""

    def __init__(self, url: str, part: Path, sha256: str, patience: Patience) -> None:
        self.url, self.part, self.sha256, self.patience = url, part, sha256, patience
        self.tag = part.with_name(f"{part.name}.etag")  # which version of the file the part is of
        self.redirects = _Redirects()
        self.opener = build_opener(self.redirects)

    @property
    def size(self) -> int:
        """The bytes that are here."""
        return self.part.stat().st_size if self.part.exists() else 0

    def run(self) -> None:
        """Leave the whole, verified file at `part`.

        Raises:
            WeightsError: as :func:`download`.
            OSError: of the file system, never of the network.
        """
        if self.size and self.sha256 and digest(self.part).startswith(self.sha256):
            return  # only the renaming was missing
        resumed = self._persist()
        if not self._is_right() and resumed:  # the beginning may be of another version: once more, from the start
            self._discard()
            self._persist()
        if not self._is_right():
            found, size = digest(self.part), self.size
            self._discard()
            wanted = self.sha256 or self.redirects.announced
            raise WeightsError(
                f"{self.url}: {size:,} bytes arrived with the sha256 {found[: max(8, len(self.sha256))]}..., not the "
                f"published {wanted}: truncated or tampered with, and deleted; try again later, or {_REMEDY}"
            )
        self.tag.unlink(missing_ok=True)

    def _is_right(self) -> bool:
        return digest(self.part).startswith(self.sha256 or self.redirects.announced)

    def _discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.tag.unlink(missing_ok=True)

    def _persist(self) -> bool:
        """Try until all bytes are here; say whether they came in more than one piece."""
        furthest = failures = 0
        resumed = False
        while True:
            try:
                return self._attempt() or resumed
            except _PassingError as interruption:
                resumed = True
                failures = 1 if self.size > furthest else failures + 1
                furthest = max(furthest, self.size)
                if failures >= self.patience.attempts:
                    often = f", {failures} times" if failures > 1 else ""
                    raise WeightsError(f"{self.url}: {interruption}{often}: try again later, or {_REMEDY}") from None
                pause_s = self.patience.pause_s * 2 ** (failures - 1)
                sys.stderr.write(f"{self.url}: {interruption}; again in {pause_s:g} s\n")
                time.sleep(pause_s)
            except OSError:
                self._discard()  # a full disk is not made emptier by half a file
                raise

    def _attempt(self) -> bool:
        """Ask for what is missing and write it; say whether earlier bytes were built on."""
        offset = self.size
        headers = {"User-Agent": "mobilenets", "Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if self.tag.exists():
                headers["If-Range"] = self.tag.read_text(encoding="latin-1")
        with self._open(Request(self.url, headers=headers)) as response:  # noqa: S310  the table's own addresses
            self.redirects.note(response.headers)
            start, total = _extent(response)
            if start not in {0, offset}:
                self._discard()
                raise _PassingError("the server sent another part than was asked for")
            if start == 0:
                self._note_tag(str(response.headers.get("ETag", "")))
            self._write(response, start, total)
        if total is not None and self.size < total:
            raise _PassingError(f"the connection ended after {self.size:,} of {total:,} bytes")
        return start > 0

    def _open(self, request: Request) -> Any:
        try:
            return self.opener.open(request, timeout=self.patience.timeout_s)
        except HTTPError as error:
            error.close()
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                self._discard()
                raise _PassingError("the file there is shorter than what is here") from None
            if error.code in _PASSING:
                raise _PassingError(f"the server answered {error.code} {error.reason}") from None
            raise WeightsError(f"{self.url}: the server answered {error.code} {error.reason}: {_REMEDY}") from None
        except URLError as error:
            raise self._explained(error.reason) from None
        except (OSError, http.client.HTTPException) as error:
            raise self._explained(error) from None

    def _explained(self, reason: object) -> Exception:
        """Tell apart what will pass from what will not."""
        text = str(getattr(reason, "strerror", None) or reason) or type(reason).__name__
        if isinstance(reason, ssl.SSLCertVerificationError):
            return WeightsError(f"{self.url}: its certificate cannot be verified ({text}): {_REMEDY}")
        if isinstance(reason, socket.gaierror) or getattr(reason, "errno", None) in _NO_NETWORK:
            return UnreachableError(f"{self.url}: cannot be reached ({text}): {_REMEDY}")
        if isinstance(reason, TimeoutError):
            return _PassingError(f"nothing came for {self.patience.timeout_s:g} s")
        return _PassingError(f"the connection failed ({text})")

    def _write(self, response: Any, start: int, total: int | None) -> None:
        with self.part.open("ab" if start else "wb") as file, _progress(self.url, start, total) as advance:
            while chunk := self._read(response):
                if file.tell() > _LARGEST_BYTES:
                    raise WeightsError(f"{self.url}: more than {_LARGEST_BYTES:,} bytes, which no weights have here")
                file.write(chunk)
                advance(len(chunk))
            file.flush()
            os.fsync(file.fileno())

    def _read(self, response: Any) -> bytes:
        try:
            chunk: bytes = response.read1(_CHUNK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise self._explained(error) from None
        return chunk

    def _note_tag(self, tag: str) -> None:
        if tag.startswith('"'):  # a weak one, W/"...", does not promise the same bytes
            self.tag.write_text(tag, encoding="latin-1")
        else:
            self.tag.unlink(missing_ok=True)


def _extent(response: Any) -> tuple[int, int | None]:
    """Return the first byte's place in the file, and the file's size where the server says it."""
    if response.status == http.client.PARTIAL_CONTENT:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", str(response.headers.get("Content-Range", "")))
        if found is None:
            return -1, None
        return int(found[1]), None if found[2] == "*" else int(found[2])
    length = str(response.headers.get("Content-Length", ""))
    return 0, int(length) if length.isdecimal() else None


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Hold the lock on a file to be; yields False where the system or the file system has no locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield False
        return
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        locked = True
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.stderr.write(f"{path.name}: another process is downloading it; waiting\n")
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            locked = False
        yield locked


@contextmanager
def _progress(url: str, done: int, total: int | None) -> Iterator[Callable[[int], object]]:
    """Show a bar on standard error where that is a terminal, else one line; yields what to call with each piece."""
    if not sys.stderr.isatty():
        size = "" if total is None else f", {total / 1e6:.1f} MB"
        sys.stderr.write(f"downloading {url}{size}{f' from {done / 1e6:.1f} MB on' if done else ''}\n")
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(url.rpartition("/")[2], total=total, completed=done)
        yield lambda count: progress.advance(task, count)
