"""ONNX Runtime Web from npm, with an npm of our own."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from mobilenets.errors import InputError
from mobilenets.formats import web_runtime as module
from mobilenets.formats.web_runtime import pinned, web_runtime
from mobilenets.page import behind

INSIDE = {
    "package/dist/ort.wasm.min.mjs": b"export const ort = 1;\n//# sourceMappingURL=ort.wasm.min.mjs.map\n",
    "package/dist/ort-wasm-simd-threaded.mjs": b"export default 2;\n",
    "package/dist/ort-wasm-simd-threaded.wasm": b"\0asm",
}


def package() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in INSIDE.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put an npm first on the path that hands out a package; return the folder with its notes."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "package.tgz").write_bytes(package())
    script = folder / "npm"
    lines = [
        "#!/bin/sh",
        f'echo "$*" >> {folder}/calls',
        "for last; do :; done",
        f'cp {folder}/package.tgz "$last/p.tgz"',
    ]
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")
    digest = base64.b64encode(hashlib.sha512(package()).digest()).decode()
    monkeypatch.setattr(module, "pinned", lambda: ("9.9.9", f"sha512-{digest}"))
    return folder


def test_it_is_fetched_once_and_kept(npm: Path, tmp_path: Path) -> None:
    runtime = web_runtime(tmp_path / "cache")
    assert runtime.version == "9.9.9"
    assert runtime.files == {
        "ort.js": b"export const ort = 1;\n",
        "ort-wasm.js": b"export default 2;\n",
        "ort-wasm.wasm": b"\0asm",
    }
    assert web_runtime(tmp_path / "cache") == runtime
    (call,) = (npm / "calls").read_text(encoding="utf-8").splitlines()
    assert call.startswith("pack onnxruntime-web@9.9.9 --ignore-scripts")


def test_a_damaged_cache_is_fetched_again(npm: Path, tmp_path: Path) -> None:
    runtime = web_runtime(tmp_path / "cache")
    (tmp_path / "cache" / "onnxruntime-web-9.9.9" / "ort-wasm.wasm").write_bytes(b"half")
    assert web_runtime(tmp_path / "cache") == runtime
    assert len((npm / "calls").read_text(encoding="utf-8").splitlines()) == 2


def test_another_package_is_not_taken(npm: Path, tmp_path: Path) -> None:
    (npm / "package.tgz").write_bytes(package() + b"more")
    with pytest.raises(InputError, match=r"onnxruntime-web@9\.9\.9 is not the package that is pinned"):
        web_runtime(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_what_npm_says_is_passed_on(npm: Path, tmp_path: Path) -> None:
    (npm / "npm").write_text("#!/bin/sh\necho 'npm error code ENOTFOUND' >&2\nexit 1\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"ENOTFOUND.*takes a network once, then it is kept"):
        web_runtime(tmp_path / "cache")


def test_without_npm_it_is_said_how_to_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"needs npm, which is not installed: install Node\.js"):
        web_runtime(tmp_path / "cache")


def test_the_package_is_pinned_to_one_version() -> None:
    version, integrity = pinned()
    assert json.loads(behind()["package.json"])["dependencies"] == {"onnxruntime-web": version}
    assert integrity.startswith("sha512-")
