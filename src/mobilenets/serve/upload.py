"""Pictures out of the body of a request, without a file being written and without more memory than the limits say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from mobilenets.serve.limits import Limits, Places, RefusedError
from mobilenets.text import printable

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FORM = "multipart/form-data"
BINARY = "application/octet-stream"
NAME_CHARACTERS = 200
PART_HEADERS = 8
PART_HEADER_BYTES = 2048


@dataclass(frozen=True)
class Upload:
    """One picture file as it came: what its sender calls it, and its bytes."""

    name: str
    content: bytes


@asynccontextmanager
async def body_of(request: Request, limits: Limits, held: Places) -> AsyncIterator[bytes]:
    """Read the body of a request; its bytes count as `held` until the block ends.

    Raises RefusedError: 413 for more than the limit, at once where the header says so; 408 where it takes too long; 503
    where too much is held already; 400 where the client went away.
    """
    taken = 0
    stated = request.headers.get("content-length", "0")
    if stated.isdecimal() and int(stated[:20]) > limits.body_bytes:
        raise _too_large(limits)
    chunks: list[bytes] = []
    try:
        try:
            async with asyncio.timeout(limits.body_s):
                async for chunk in request.stream():
                    if taken + len(chunk) > limits.body_bytes:
                        raise _too_large(limits)
                    held.take(len(chunk))
                    taken += len(chunk)
                    chunks.append(chunk)
        except TimeoutError:
            raise RefusedError(408, f"the body took longer than {limits.body_s:g} seconds: send it faster") from None
        except ClientDisconnect:
            raise RefusedError(400, "the body ended early") from None
        content = b"".join(chunks)
        chunks.clear()
        yield content
    finally:
        held.give_back(taken)


def _too_large(limits: Limits) -> RefusedError:
    return RefusedError(413, f"the body is larger than {limits.body_bytes:,} bytes: send smaller or fewer pictures")


def check_type(content_type: str, encoding: str) -> None:
    """Raise RefusedError (415) for a body that cannot be pictures, or is compressed: it could swell."""
    if encoding.strip().lower() not in {"", "identity"}:
        raise RefusedError(415, "compressed bodies are not read: send pictures as they are")
    kind = content_type.partition(";")[0].strip().lower()
    if kind != FORM and not _may_be_picture(kind):
        raise RefusedError(415, f"{printable(kind)[:80]} is no picture: send image/*, {BINARY} or {FORM}")


def _may_be_picture(kind: str) -> bool:
    return kind in {"", BINARY} or (kind.startswith("image/") and not kind.startswith("image/svg"))


def uploads_of(content: bytes, content_type: str, limits: Limits) -> list[Upload]:
    """Return the pictures in a body: all of it, or the files of a form.

    Raises RefusedError: 422 for a damaged or empty form, 413 for too many pictures, 415 for a part that is none.
    """
    kind, options = parse_options_header(content_type)
    if kind.decode("latin-1") != FORM:
        return [Upload("picture", content)]
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise RefusedError(422, "the form has no boundary in its Content-Type")
    form = _Form(limits.pictures)
    try:
        parser = MultipartParser(
            boundary, form.callbacks(), max_header_count=PART_HEADERS, max_header_size=PART_HEADER_BYTES
        )
        parser.write(content)
        parser.finalize()
    except (FormParserError, ValueError) as error:
        raise RefusedError(422, f"the form is damaged: {printable(str(error))[:160]}") from None
    if not form.ended:
        raise RefusedError(422, "the form is damaged: it ends early")
    if not form.uploads:
        raise RefusedError(422, "the form has no pictures: send each as a file")
    return form.uploads


@dataclass
class _Form:
    """Collects the files of a form while it is parsed."""

    limit: int
    uploads: list[Upload] = field(default_factory=list)
    ended: bool = False
    _headers: dict[str, bytes] = field(default_factory=dict)
    _name: bytes = b""
    _value: bytes = b""
    _content: list[bytes] = field(default_factory=list)

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._more_name,
            "on_header_value": self._more_value,
            "on_header_end": self._header,
            "on_headers_finished": self._check,
            "on_part_data": self._more_content,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        if len(self.uploads) == self.limit:
            raise RefusedError(413, f"more than {self.limit} pictures: send them in several requests")
        self._headers, self._content = {}, []

    def _more_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _more_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _more_content(self, data: bytes, start: int, end: int) -> None:
        self._content.append(data[start:end])

    def _finish(self) -> None:
        self.ended = True

    def _header(self) -> None:
        self._headers[self._name.decode("latin-1").lower()] = self._value
        self._name = self._value = b""

    def _check(self) -> None:
        kind, _ = parse_options_header(self._headers.get("content-type", b""))
        if not _may_be_picture(kind.decode("latin-1")):
            raise RefusedError(415, f"a part of type {printable(kind.decode('latin-1'))[:80]} is no picture")
        _, options = parse_options_header(self._headers.get("content-disposition", b""))
        if b"filename" not in options and not kind.startswith(b"image/"):
            field_name = printable(options.get(b"name", b"").decode("utf-8", "replace"))[:80]
            raise RefusedError(422, f"{field_name or 'a part'} is no file: options belong in the address, as in ?top=3")

    def _end(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition", b""))
        given = printable(options.get(b"filename", b"").decode("utf-8", "replace"))
        name = given[-NAME_CHARACTERS:] or f"picture {len(self.uploads) + 1}"
        self.uploads.append(Upload(name, b"".join(self._content)))
