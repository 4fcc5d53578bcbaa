"""What nobody should send: each gets its status, and the service goes on."""

from __future__ import annotations

import gzip
import pickle
import socket
import struct
import zlib
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.serve.clients import BOUNDARY, FORM, LIMITS, Live, file_header, form, noise, picture, running

HOST = b"Host: localhost\r\n"


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG that claims a size and has next to no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    more = b"".join(chunk(kind, data) for kind, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + header + more + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    """Return a JPEG whose header was given another size."""
    content = bytearray(picture(kind="JPEG"))
    at = content.index(b"\xff\xc0")
    content[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(content)


GOOD = picture()
PHOTO = noise("JPEG")
TEXT_BOMB = png(8, 8, (b"zTXt", b"k\0\0" + zlib.compress(b"a" * 70_000_000)))

PICTURES: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", 422),
    "text": (b"hello, I am a picture", 422),
    "a truncated JPEG": (PHOTO[: len(PHOTO) // 2], 422),
    "a JPEG's first bytes": (PHOTO[:3], 422),
    "a truncated PNG": (noise("PNG")[:-3000], 422),
    "a PNG of 900 million pixels": (png(30_000, 30_000), 422),
    "a PNG with a pixel too many": (png(1000, 101), 422),
    "a PNG of 2**31 x 2**31": (png(2**31 - 1, 2**31 - 1), 422),
    "a PNG whose text swells": (TEXT_BOMB, 422),
    "a GIF of 65535 x 65535": (b"GIF89a" + b"\xff\xff\xff\xff\x80\0\0" + b"\0" * 40, 422),
    "a BMP of 2**30 x 2": (b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 2**30, 2, 1, 24, *[0] * 6), 422),
    "a JPEG of 65500 x 65500": (jpeg(65500, 65500), 422),
    "a broken TIFF": (b"II*\0\x08\0\0\0\xff\xff" + b"\1" * 200, 422),
    "a picture that is an archive too": (PHOTO + b"PK\3\4" + b"\0" * 100, 200),
    "a script that begins as a GIF": (b"GIF89a/*\0\0\0*/=1;alert(1)//", 422),
    "a page": (b"<!doctype html><script>alert(1)</script>", 422),
    "a pickle": (pickle.dumps({"a": [1, 2]}), 422),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (r) file\n", 422),
}


@pytest.mark.parametrize("name", PICTURES)
def test_picture(live: Live, name: str) -> None:
    content, status = PICTURES[name]
    reply = live.predict(content)
    assert reply.status == status, reply.body
    if status != 200:
        assert len(reply.json()["error"].splitlines()) == 1
    assert live.ask("GET", "/healthz").status == 200


TYPES = {
    "text/html": 415,
    "application/json": 415,
    "application/x-python-pickle": 415,
    "image/svg+xml": 415,
    "multipart/mixed; boundary=x": 415,
    "multipart/form-data": 422,
    f"multipart/form-data; boundary={'x' * 300}": 422,
    "image/png\xff": 200,
}


@pytest.mark.parametrize("kind", TYPES)
def test_type(live: Live, kind: str) -> None:
    assert live.predict(GOOD, kind=kind).status == TYPES[kind]


FORMS: dict[str, tuple[bytes, int]] = {
    "10,000 parts": (form(*[(file_header(), b"x")] * 10_000), 413),
    "a picture too many": (form(*[(file_header(), GOOD)] * (LIMITS.pictures + 1)), 413),
    "no parts": (form(), 422),
    "no end": (form((file_header(), GOOD))[:-30], 422),
    "another boundary": (b"--else\r\n\r\n\r\n--else--\r\n", 422),
    "a field": (form(('Content-Disposition: form-data; name="url"', b"http://127.0.0.1:1/")), 422),
    "a page among the parts": (form((file_header("a.html", "text/html"), GOOD)), 415),
    "a part with a long header": (form((f"{file_header()}\r\nX-Long: {'x' * 4000}", GOOD)), 422),
    "a part with many headers": (form(("\r\n".join([file_header(), *["X: y"] * 100]), GOOD)), 422),
    "a name that leads elsewhere": (form((file_header("../../../../etc/passwd"), GOOD)), 200),
    "a name with a zero": (form((file_header("a\0.png"), GOOD)), 200),
    "a name of 1500 letters": (form((file_header("n" * 1500), GOOD)), 200),
}


@pytest.mark.parametrize("name", FORMS)
def test_form(live: Live, name: str) -> None:
    content, status = FORMS[name]
    reply = live.predict(content, kind=FORM)
    assert reply.status == status, reply.body
    assert len(reply.body) < 2000


QUERIES = {
    "?model=../../etc/passwd": 404,
    "?model=http://127.0.0.1:1/x.safetensors": 404,
    "?model=": 404,
    "?model=%00": 404,
    "?top=0": 422,
    "?top=-1": 422,
    "?top=1001": 422,
    "?top=99999999999999999999999999": 422,
    "?top=x": 422,
    "?threshold=nan": 422,
    "?threshold=-0.1": 422,
    "?threshold=inf": 422,
    "?explain=perhaps": 422,
    "?url=http://127.0.0.1:1/&path=/etc/passwd": 200,
}


@pytest.mark.parametrize("query", QUERIES)
def test_query(live: Live, query: str) -> None:
    reply = live.predict(GOOD, query)
    assert reply.status == QUERIES[query]
    assert reply.status == 200 or reply.json()["error"]


PATHS = [
    "/../../etc/passwd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/..%2f..%2fetc%2fpasswd",
    "//etc/passwd",
    "/v1/../x",
    "/v1/model/",
]


@pytest.mark.parametrize("path", [*PATHS, "/best.safetensors", "/browser.js", "/__init__.py", "/%00", "/v1/predict/x"])
def test_path(live: Live, path: str) -> None:
    assert live.ask("GET", path).status == 404


def post(*lines: str, body: bytes = b"") -> bytes:
    return "\r\n".join(["POST /v1/predict HTTP/1.1", "Host: localhost", *lines, "", ""]).encode() + body


LENGTH = f"Content-Length: {len(GOOD)}"
REQUESTS: dict[str, tuple[bytes, int | None]] = {
    "a negative length": (post("Content-Length: -1"), 400),
    "a length in words": (post("Content-Length: many"), 400),
    "two lengths": (post(LENGTH, "Content-Length: 7", body=GOOD), 400),
    "a length of 40 digits": (post(f"Content-Length: {'9' * 40}"), 400),
    "a length above the limit": (post("Content-Length: 2000001"), 413),
    "a length and chunks": (post(LENGTH, "Transfer-Encoding: chunked", body=b"0\r\n\r\n"), 422),
    "an unknown transfer encoding": (post("Transfer-Encoding: gzip, chunked"), 400),
    "a chunk of no size": (post("Transfer-Encoding: chunked", body=b"zz\r\n"), 400),
    "chunks above the limit": (
        post("Transfer-Encoding: chunked", body=(b"4000\r\n" + b"x" * 0x4000 + b"\r\n") * 125),
        413,
    ),
    "a body that ends early": (post("Content-Length: 99"), None),
    "a compressed body": (
        post("Content-Encoding: gzip", "Content-Length: 29", body=gzip.compress(b"a" * 10_000, mtime=0)[:29]),
        415,
    ),
    "a large header": (post(f"X: {'x' * 20_000}"), 431),
    "5,000 headers": (post(*["X: y"] * 5000), 431),
    "a large address": (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 431),
    "a zero in a header": (post("X: a\0b"), 400),
    "a header on two lines": (post("X: a\r\n b: c", LENGTH, body=GOOD), 200),
    "no host": (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET /healthz HTTP/1.1\r\n" + HOST + b"Host: else\r\n\r\n", 400),
    "a foreign host": (b"GET /v1/models HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
    "a host that is none": (b"GET /v1/models HTTP/1.1\r\nHost: [::1\r\n\r\n", 421),
    "another origin": (post("Origin: http://evil.example", LENGTH, body=GOOD), 403),
    "a page of another site": (post("Sec-Fetch-Site: cross-site", LENGTH, body=GOOD), 403),
    "an absolute address": (b"GET http://evil.example/ HTTP/1.1\r\n" + HOST + b"\r\n", 404),
    "TRACE": (b"TRACE / HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    "CONNECT": (b"CONNECT evil.example:443 HTTP/1.1\r\n" + HOST + b"\r\n", 404),
    "DELETE": (b"DELETE /v1/predict HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 300 + b"\r\n\r\n", 400),
    "bytes": (bytes(range(256)) * 10, 400),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_request(live: Live, name: str) -> None:
    content, status = REQUESTS[name]
    assert live.say(content, hang_up=status is None) == status
    assert live.ask("GET", "/healthz").status == 200


def test_header_that_grows(live: Live) -> None:
    pieces = [b"GET / HTTP/1.1\r\n", HOST, *[b"X-%d: %s\r\n" % (index, b"x" * 1000) for index in range(100)]]
    assert live.say(*pieces, pause_s=0.001) == 431


def test_slow_header(live: Live) -> None:
    slowly = [bytes([byte]) for byte in b"GET /healthz HTTP/1.1\r\nHost"]
    assert live.say(*slowly, pause_s=LIMITS.header_s / 10) == 408


def test_silence(live: Live) -> None:
    assert live.say() == 408


def test_connections_beyond_the_limit(colours: Path) -> None:
    with running(colours.parent, str(colours), limits=replace(LIMITS, connections=3, header_s=5)) as live:
        with ExitStack() as open_connections:
            for _ in range(3):
                open_connections.enter_context(closing(socket.create_connection(("127.0.0.1", live.port))))
            assert live.say() == 503
        while live.say(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n") != 200:
            pass


def test_a_picture_at_the_limit_of_pixels(live: Live) -> None:
    assert live.predict(picture(size=(1000, 100))).status == 200


def test_second_request_that_does_not_end(live: Live) -> None:
    whole = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
    assert live.say(whole, *[b"G"], pause_s=2.5 * LIMITS.header_s) == 200
    assert not live.service.state.draining


def test_slow_body(live: Live) -> None:
    slowly = [bytes([byte]) for byte in GOOD[:20]]
    assert live.say(post(LENGTH), *slowly, pause_s=LIMITS.body_s / 10) == 408
    assert live.service.held.taken == 0


def test_nothing_is_written(live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    before = sorted(live.folder.iterdir())
    content = form(*[(file_header(f"../{index}.png"), noise("PNG", (120, 100))) for index in range(4)])
    assert live.predict(content, kind=FORM).status == 200
    assert BOUNDARY.encode() in content
    assert sorted(live.folder.iterdir()) == before
    assert not list(tmp_path.iterdir())


def test_there_are_forty_cases_and_more() -> None:
    assert len(PICTURES) + len(TYPES) + len(FORMS) + len(QUERIES) + len(PATHS) + len(REQUESTS) > 40
