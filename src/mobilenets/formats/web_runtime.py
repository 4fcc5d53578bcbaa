"""ONNX Runtime Web: the three files of the npm package that a page needs, fetched once and kept.

The package's version and sha512 are pinned in `page/package.json` and `page/package-lock.json`. npm only downloads it:
nothing in it is installed or run by npm.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from mobilenets.errors import InputError
from mobilenets.files import cache_folder, write_atomically
from mobilenets.page import behind

PACKAGE = "onnxruntime-web"
_PATIENCE_S = 600.0  # 33 MB, over a slow line
_SUMS = "sha256.json"  # written last: with it, the cache is whole

# The package's names and ours. Ending in .js because some servers do not know .mjs.
_FILES = {
    "package/dist/ort.wasm.min.mjs": "ort.js",
    "package/dist/ort-wasm-simd-threaded.mjs": "ort-wasm.js",
    "package/dist/ort-wasm-simd-threaded.wasm": "ort-wasm.wasm",
}


@dataclass(frozen=True, slots=True)
class WebRuntime:
    """ONNX Runtime Web: its version, and its files by the names they have in an exported folder."""

    version: str
    files: dict[str, bytes]


def program(name: str) -> str:
    """Return where `node` or `npm` is; raises InputError, saying how to have it, where it is not."""
    found = shutil.which(name)
    if found is None:
        raise InputError(
            f"--to web needs {name}, which is not installed: install Node.js 18 or newer, npm included (nodejs.org)"
        )
    return found


def web_runtime(folder: Path | None = None) -> WebRuntime:
    """Return ONNX Runtime Web, from the cache or else from npm.

    Args:
        folder: where it is kept; in the cache folder by default.

    Raises:
        InputError: npm is not there or cannot fetch it, or what came is not the pinned package.
        WeightsError: there is no cache folder.
    """
    version, integrity = pinned()
    folder = (folder or cache_folder() / "npm") / f"{PACKAGE}-{version}"
    files = _kept(folder)
    if files is None:
        files = _unpacked(_fetched(version, integrity), version)
        for name, content in files.items():
            write_atomically(folder / name, content)
        write_atomically(folder / _SUMS, json.dumps({name: _sha256(content) for name, content in files.items()}))
    return WebRuntime(version, files)


def pinned() -> tuple[str, str]:
    """Return the version of the package, and the integrity that npm states of it (sha512-BASE64)."""
    locked = json.loads(behind()["package-lock.json"])["packages"][f"node_modules/{PACKAGE}"]
    return locked["version"], locked["integrity"]


def _kept(folder: Path) -> dict[str, bytes] | None:
    try:
        sums = json.loads((folder / _SUMS).read_bytes())
        files = {name: (folder / name).read_bytes() for name in _FILES.values()}
    except (OSError, ValueError):
        return None
    return files if {name: _sha256(content) for name, content in files.items()} == sums else None


def _fetched(version: str, integrity: str) -> bytes:
    """Return the package as npm has it, verified."""
    wanted = f"{PACKAGE}@{version}"
    with TemporaryDirectory() as folder:
        command = [program("npm"), "pack", wanted, "--ignore-scripts", "--silent", "--pack-destination", folder]
        try:
            done = subprocess.run(  # noqa: S603 - npm itself, with words of our own
                command, cwd=folder, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise InputError(f"npm did not fetch {wanted} in {_PATIENCE_S:.0f} s: try again, or elsewhere") from None
        archives = sorted(Path(folder).glob("*.tgz"))
        if done.returncode != 0 or not archives:
            lines = [line for line in done.stderr.splitlines() if line.strip() and "warn" not in line]
            reason = lines[0].removeprefix("npm error ").strip() if lines else f"exit code {done.returncode}"
            raise InputError(f"npm cannot fetch {wanted} ({reason}): it takes a network once, then it is kept")
        content = archives[0].read_bytes()
    algorithm, _, stated = integrity.partition("-")
    if base64.b64encode(hashlib.new(algorithm, content).digest()).decode() != stated:
        raise InputError(f"what npm sent as {wanted} is not the package that is pinned here: look at npm's registry")
    return content


def _unpacked(archive: bytes, version: str) -> dict[str, bytes]:
    import io

    files = {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as package:
        for inside, name in _FILES.items():
            member = package.extractfile(inside)
            assert member is not None, f"{inside} is not in {PACKAGE} {version}"
            content = member.read()
            if name.endswith(".js"):  # the maps stay behind, and asking for them would only fail
                content = b"\n".join(line for line in content.split(b"\n") if not line.startswith(b"//# sourceMapping"))
            files[name] = content
    return files


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
