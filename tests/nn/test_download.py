from __future__ import annotations

import errno
import hashlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mobilenets.errors import WeightsError
from mobilenets.nn.download import Patience, UnreachableError, _Transfer, download

if TYPE_CHECKING:
    from tests.nn.conftest import FileServer

QUICK = Patience(timeout_s=5.0, attempts=3, pause_s=0.01)


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_a_file_arrives_whole(server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "deep" / "weights.pth"
    download(f"{server.url}/weights.pth", path, sha256=server.sha256[:8])
    assert path.read_bytes() == server.body
    assert left_over(path.parent) == ["weights.pth"]
    assert server.requests == [("/weights.pth", None)]
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"downloading {server.url}/weights.pth, 0.5 MB\n"


def test_what_is_there_is_not_fetched_again(server: FileServer, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"there")
    download(f"{server.url}/weights.pth", path, sha256=server.sha256)
    assert path.read_bytes() == b"there"
    assert server.requests == []


def test_cut_connections_are_resumed(server: FileServer, tmp_path: Path) -> None:
    for sent in (100_000, 50_000, 1, 0, 7):
        server.answer_with(send=sent)
    path = tmp_path / "weights.pth"
    download(f"{server.url}/weights.pth", path, sha256=server.sha256, patience=QUICK)
    assert path.read_bytes() == server.body
    ranges = [asked for _, asked in server.requests]
    assert ranges == [None, "bytes=100000-", "bytes=150000-", "bytes=150001-", "bytes=150001-", "bytes=150008-"]


def test_a_later_call_goes_on_where_an_earlier_one_stopped(server: FileServer, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    server.answer_with(send=100_000)
    impatient = Patience(timeout_s=5.0, attempts=1, pause_s=0.01)
    with pytest.raises(WeightsError, match=r"the connection ended after 100,000 of 512,000 bytes: try again later"):
        download(f"{server.url}/weights.pth", path, sha256=server.sha256, patience=impatient)
    assert left_over(tmp_path) == ["weights.pth.part", "weights.pth.part.etag"]
    download(f"{server.url}/weights.pth", path, sha256=server.sha256, patience=QUICK)
    assert path.read_bytes() == server.body
    assert server.requests[-1] == ("/weights.pth", "bytes=100000-")


def test_a_killed_process_leaves_what_the_next_one_goes_on_from(server: FileServer, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    server.gate.clear()
    process = start(f"{server.url}/weights.pth", path, server.sha256)
    part = tmp_path / "weights.pth.part"
    assert server.arrived.acquire(timeout=60)
    while not part.exists() or part.stat().st_size < 1000:
        assert process.poll() is None
    process.kill()
    process.communicate()
    server.gate.set()
    download(f"{server.url}/weights.pth", path, sha256=server.sha256, patience=QUICK)
    assert path.read_bytes() == server.body
    _, asked = server.requests[-1]
    assert asked is not None


def test_server_without_ranges_starts_again(server: FileServer, tmp_path: Path) -> None:
    server.ranges = False
    server.answer_with(send=100_000)
    path = tmp_path / "weights.pth"
    download(f"{server.url}/weights.pth", path, sha256=server.sha256, patience=QUICK)
    assert path.read_bytes() == server.body
    assert [asked for _, asked in server.requests] == [None, "bytes=100000-"]


def test_server_without_length_is_believed_by_the_checksum(server: FileServer, tmp_path: Path) -> None:
    server.length = False
    path = tmp_path / "weights.pth"
    download(f"{server.url}/weights.pth", path, sha256=server.sha256)
    assert path.read_bytes() == server.body


def test_a_file_that_changed_meanwhile_is_fetched_anew(server: FileServer, tmp_path: Path) -> None:
    """The entity tag tells; the old beginning is thrown away."""
    (tmp_path / "weights.pth.part").write_bytes(b"x" * 1000)
    (tmp_path / "weights.pth.part.etag").write_text('"older"')
    path = tmp_path / "weights.pth"
    download(f"{server.url}/weights.pth", path, sha256=server.sha256)
    assert path.read_bytes() == server.body
    assert server.requests == [("/weights.pth", "bytes=1000-")]


def test_a_wrong_beginning_is_found_by_the_checksum(server: FileServer, tmp_path: Path) -> None:
    server.etag = None
    (tmp_path / "weights.pth.part").write_bytes(b"x" * 1000)
    path = tmp_path / "weights.pth"
    download(f"{server.url}/weights.pth", path, sha256=server.sha256)
    assert path.read_bytes() == server.body
    assert [asked for _, asked in server.requests] == ["bytes=1000-", None]


def test_a_beginning_longer_than_the_file_is_thrown_away(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "weights.pth.part").write_bytes(b"x" * 600_000)
    path = tmp_path / "weights.pth"
    download(f"{server.url}/weights.pth", path, sha256=server.sha256, patience=QUICK)
    assert path.read_bytes() == server.body


def test_a_whole_part_needs_no_network(tmp_path: Path) -> None:
    (tmp_path / "weights.pth.part").write_bytes(b"whole")
    path = tmp_path / "weights.pth"
    download("http://127.0.0.1:1/weights.pth", path, sha256=hashlib.sha256(b"whole").hexdigest())
    assert path.read_bytes() == b"whole"


@pytest.mark.parametrize("change", ["truncated", "tampered", "page"])
def test_another_file_is_refused_and_deleted(server: FileServer, tmp_path: Path, change: str) -> None:
    sha256 = server.sha256
    server.body = {
        "truncated": server.body[:-1000],
        "tampered": server.body[:1000] + b"!" + server.body[1001:],
        "page": b"<html>Please accept the terms of this network</html>",
    }[change]
    with pytest.raises(WeightsError) as raised:
        download(f"{server.url}/weights.pth", tmp_path / "weights.pth", sha256=sha256[:10], patience=QUICK)
    message = str(raised.value)
    assert f"{len(server.body):,} bytes arrived with the sha256 {server.sha256[:10]}..., not the published" in message
    assert message.endswith("deleted; try again later, or download it elsewhere and pass --weights FILE")
    assert "\n" not in message
    assert left_over(tmp_path) == []
    assert len(server.requests) == 1


@pytest.mark.parametrize(("status", "reason"), [(404, "Not Found"), (403, "Forbidden"), (410, "Gone")])
def test_refusals_are_final(server: FileServer, tmp_path: Path, status: int, reason: str) -> None:
    server.answer_with(status)
    with pytest.raises(WeightsError, match=rf"weights\.pth: the server answered {status} {reason}: download it else"):
        download(f"{server.url}/weights.pth", tmp_path / "weights.pth", sha256="00000000", patience=QUICK)
    assert len(server.requests) == 1


def test_passing_errors_are_tried_again(server: FileServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.answer_with(503)
    server.answer_with(429)
    download(f"{server.url}/weights.pth", tmp_path / "weights.pth", sha256=server.sha256, patience=QUICK)
    assert len(server.requests) == 3
    printed = capsys.readouterr().err
    assert "the server answered 503 Service Unavailable; again in 0.01 s" in printed
    assert "the server answered 429 Too Many Requests; again in 0.02 s" in printed


def test_errors_that_do_not_pass_end(server: FileServer, tmp_path: Path) -> None:
    server.answer_with(500, times=5)
    with pytest.raises(WeightsError, match="500 Internal Server Error, 3 times: try again later, or download it"):
        download(f"{server.url}/weights.pth", tmp_path / "weights.pth", sha256="00000000", patience=QUICK)
    assert len(server.requests) == 3


@pytest.mark.parametrize("sent", [0, 1000])
def test_a_server_that_stops_talking_is_given_up(server: FileServer, tmp_path: Path, sent: int) -> None:
    server.answer_with(send=sent, hang=True, times=2)
    patience = Patience(timeout_s=0.2, attempts=2, pause_s=0.01)
    server.ranges = False
    with pytest.raises(WeightsError, match=r"nothing came for 0\.2 s, 2 times"):
        download(f"{server.url}/weights.pth", tmp_path / "weights.pth", sha256=server.sha256, patience=patience)


def test_a_hung_server_is_gone_on_from(server: FileServer, tmp_path: Path) -> None:
    server.answer_with(send=100_000, hang=True)
    patience = Patience(timeout_s=0.2, attempts=2, pause_s=0.01)
    path = tmp_path / "weights.pth"
    download(f"{server.url}/weights.pth", path, sha256=server.sha256, patience=patience)
    assert path.read_bytes() == server.body
    assert server.requests[-1] == ("/weights.pth", "bytes=100000-")


def test_nobody_listening_is_said_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/weights.pth"
        with pytest.raises(WeightsError, match=r"the connection failed \(Connection refused\), 3 times"):
            download(url, tmp_path / "weights.pth", sha256="00000000", patience=QUICK)


def test_no_such_host_is_said_at_once(tmp_path: Path) -> None:
    url = "http://weights.invalid/weights.pth"
    with pytest.raises(UnreachableError, match=r"cannot be reached \(.*\): download it elsewhere and pass --weights"):
        download(url, tmp_path / "weights.pth", sha256="00000000", patience=Patience(pause_s=60.0))


def test_proxy_of_the_environment_is_used(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    download("http://weights.invalid/weights.pth", tmp_path / "weights.pth", sha256=server.sha256, patience=QUICK)
    assert server.requests == [("http://weights.invalid/weights.pth", None)]


def test_checksum_announced_on_the_way_is_verified(server: FileServer, tmp_path: Path) -> None:
    """As Hugging Face's hub does: a redirection that names the sha256 of the file it leads to."""
    there = {"Location": f"{server.url}/storage/1", "X-Linked-ETag": f'"{server.sha256}"'}
    server.answer_with(302, headers=there)
    download(f"{server.url}/model.safetensors", tmp_path / "right", patience=QUICK)
    assert (tmp_path / "right").read_bytes() == server.body
    server.answer_with(302, headers=there | {"X-Linked-ETag": '"' + "0" * 64 + '"'})
    with pytest.raises(WeightsError, match=f"not the published {'0' * 64}"):
        download(f"{server.url}/model.safetensors", tmp_path / "wrong", patience=QUICK)
    assert not (tmp_path / "wrong").exists()


def test_redirection_out_of_https_is_refused(tmp_path: Path) -> None:
    from http.client import HTTPMessage
    from io import BytesIO
    from urllib.request import Request

    redirects = _Transfer("https://a/b", tmp_path / "part", "", QUICK).redirects
    with pytest.raises(WeightsError, match="leads to an unprotected address"):
        redirects.redirect_request(Request("https://a/b"), BytesIO(), 302, "Found", HTTPMessage(), "http://a/c")


def test_full_disk_is_said_and_nothing_is_left(server: FileServer, tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    (tmp_path / "weights.pth.part").symlink_to("/dev/full")
    with pytest.raises(WeightsError, match=rf"{tmp_path}: cannot be written \({os.strerror(errno.ENOSPC)}\): free"):
        download(f"{server.url}/weights.pth", tmp_path / "weights.pth", sha256=server.sha256, patience=QUICK)
    assert left_over(tmp_path) == []


def test_folder_that_cannot_be_is_said(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match=r"cannot be written .*or name another folder in MOBILENETS_CACHE"):
        download(f"{server.url}/weights.pth", tmp_path / "file" / "weights.pth", sha256=server.sha256)
    assert server.requests == []


def start(url: str, path: Path, sha256: str) -> subprocess.Popen[str]:
    code = (
        "import sys; from pathlib import Path; from mobilenets.nn.download import download; "
        "download(sys.argv[1], Path(sys.argv[2]), sha256=sys.argv[3])"
    )
    return subprocess.Popen([sys.executable, "-c", code, url, str(path), sha256], stderr=subprocess.PIPE, text=True)


def test_two_processes_download_once(server: FileServer, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    server.gate.clear()
    first = start(f"{server.url}/weights.pth", path, server.sha256)
    assert server.arrived.acquire(timeout=60)
    second = start(f"{server.url}/weights.pth", path, server.sha256)
    assert second.stderr is not None
    assert second.stderr.readline() == "weights.pth: another process is downloading it; waiting\n"
    server.gate.set()
    for process in (first, second):
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert path.read_bytes() == server.body
    assert len(server.requests) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["weights.pth"]
