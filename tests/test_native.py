"""`export --to native`: what is written was compiled, run and compared first."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mobilenets import export
from mobilenets.checkpoint import Checkpoint, save
from mobilenets.cli import main
from mobilenets.engine.memory import peak
from mobilenets.errors import InputError, ParityError
from mobilenets.formats import native_build

Networks = Callable[..., Checkpoint]


@pytest.fixture
def target() -> str:
    try:
        name = native_build.here()
        native_build.compiler(name)
    except InputError as error:
        pytest.skip(str(error))
    return name


def test_a_folder_that_cmake_builds(target: str, random_int8_network: Networks, tmp_path: Path) -> None:
    checkpoint = random_int8_network("mobilenet_v2")
    save(checkpoint, tmp_path / "my.net.safetensors")
    result = export(str(tmp_path / "my.net.safetensors"), to="native")
    folder = tmp_path / "my.net_native"
    assert result.path == folder
    assert (result.max_abs_error, result.top1_agreement) == (0, 1)
    names = {str(path.relative_to(folder)) for path in result.files}
    libraries = {f"{target}/libmy_net.a", f"{target}/libmy_net.so"}
    assert names == {"my_net.h", "my_net.c", "example.c", "CMakeLists.txt"} | libraries
    size = peak(checkpoint.card.plan, "int8", "streamed")
    assert f"MY_NET_ARENA_BYTES {size}" in (folder / "my_net.h").read_text()
    if shutil.which("cmake") is None:
        pytest.skip("there is no cmake: the CMakeLists.txt was not tried")
    for step in (("cmake", "-S", ".", "-B", "build"), ("cmake", "--build", "build")):
        subprocess.run(step, cwd=folder, check=True, capture_output=True)
    (folder / "picture.bin").write_bytes(np.zeros((48, 48, 3), np.uint8).tobytes())
    done = subprocess.run(["build/example", "picture.bin"], cwd=folder, check=True, capture_output=True, text=True)
    assert len(done.stdout.splitlines()) == 4


def test_the_command(
    target: str, random_int8_network: Networks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(random_int8_network("mobilenet_v2_mnist"), tmp_path / "a.safetensors")
    out = tmp_path / "there"
    command = ["export", str(tmp_path / "a.safetensors"), "--to", "native", "--target", target, "--out", str(out)]
    assert main([*command, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["path"] == str(out)
    assert said["takes"].startswith("pictures, uint8 (1, H, W")
    assert (out / target / "liba.a").is_file()


def test_what_computes_something_else_is_not_written(
    target: str, random_int8_network: Networks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(random_int8_network("mobilenet_v2_mnist"), tmp_path / "a.safetensors")
    honest = native_build.logits
    monkeypatch.setattr(
        native_build, "logits", lambda *arguments: [[-value for value in row] for row in honest(*arguments)]
    )
    with pytest.raises(ParityError, match="nothing was written"):
        export(str(tmp_path / "a.safetensors"), to="native", target=target)
    assert not (tmp_path / "a_native").exists()


def test_what_cannot_be_exported(random_int8_network: Networks, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save(random_int8_network("mobilenet_v2_mnist"), path)
    with pytest.raises(InputError, match="there is x86-64-linux, arm-64-linux, arm-64-android, wasm-32"):
        export(str(path), to="native", target="abacus")
    with pytest.raises(InputError, match="--target is for --to native"):
        export(str(path), to="onnx", target="wasm-32")
    with pytest.raises(InputError, match="leave them out"):
        export(str(path), to="native", pictures=True)
    with pytest.raises(InputError, match="name a folder"):
        export(str(path), to="native", out=path)


@pytest.mark.slow
@pytest.mark.parametrize("target", native_build.TARGETS)
def test_photographs_on_every_machine(
    target: str, random_int8_network: Networks, shared_data: Path, tmp_path: Path
) -> None:
    if native_build.runner(target) is None:
        pytest.skip(f"{native_build.TARGETS[target].runner[0]} is not installed: {target} programs cannot be run here")
    try:
        native_build.compiler(target)
    except InputError as error:
        pytest.skip(str(error))
    save(random_int8_network("mobilenet_v2"), tmp_path / "a.safetensors")
    result = export(str(tmp_path / "a.safetensors"), to="native", target=target, data=str(shared_data / "images"))
    assert (result.images, result.max_abs_error) == (5, 0)
