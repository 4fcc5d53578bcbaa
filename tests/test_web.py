"""Exported pages: what is written, that it is proved, and that nothing else is touched."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mobilenets.checkpoint import Checkpoint, save
from mobilenets.errors import InputError, ParityError
from mobilenets.export import ExportResult, export
from mobilenets.formats.onnx_file import to_onnx
from mobilenets.page import files
from tests.web_tools import need_web_tools

Network = Callable[..., Checkpoint]


@pytest.fixture(scope="session", autouse=True)
def runtime() -> None:
    need_web_tools()


@pytest.fixture(scope="module")
def birds(random_network: Network, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    """Return an export without options."""
    folder = tmp_path_factory.mktemp("birds")
    return export(str(save(random_network("mobilenet_v2"), folder / "birds.safetensors")), to="web")


@pytest.fixture
def model(random_network: Network, tmp_path: Path) -> str:
    return str(save(random_network("mobilenet_v2"), tmp_path / "birds.safetensors"))


def models_of(folder: Path) -> list[str]:
    names: list[str] = json.loads((folder / "models.json").read_bytes())["models"]
    return names


def test_a_folder_has_the_page_the_model_and_the_runtime(birds: ExportResult) -> None:
    result = birds
    assert result.path.name == "birds_web"
    assert (result.path.parent / "birds.safetensors").is_file()
    assert (result.images, result.top1_agreement) == (8, 1.0)
    assert result.relative_error < 1e-5
    assert "ONNX Runtime Web" in result.runtime
    assert "uint8 (1, H, W, 3)" in result.takes
    there = {str(path.relative_to(result.path)) for path in result.path.rglob("*") if path.is_file()}
    assert there == {str(path.relative_to(result.path)) for path in result.files}
    assert set(files()) | {"ort.js", "ort-wasm.js", "ort-wasm.wasm", "ort-license.txt", "models.json"} < there
    card = json.loads((result.path / "models" / "birds" / "model.json").read_bytes())
    assert card["labels"] == list("abcdefg")
    assert card["preprocess"]["height"] == 48
    assert card["explain"]
    assert card["bytes"] == (result.path / "models" / "birds" / "model.onnx").stat().st_size
    assert {metric["name"] for metric in card["metrics"]} == {"max_abs_error", "relative_error", "top1_agreement"}
    assert 'data-backend="browser"' in (result.path / "index.html").read_text(encoding="utf-8")
    assert f"{len(there)} files" in str(result)


def test_the_service_worker_knows_every_file(birds: ExportResult) -> None:
    folder = birds.path
    script = (folder / "service-worker.js").read_text(encoding="utf-8")
    known = json.loads(script[script.index("{") : script.index("};") + 1])
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert set(known) == there - {"service-worker.js"}
    assert all(re.fullmatch("[0-9a-f]{16}", each) for each in known.values())


def test_another_model_comes_beside_the_first(model: str, random_int8_network: Network, tmp_path: Path) -> None:
    folder = tmp_path / "page"
    export(model, to="web", out=folder, images=1)
    small = save(random_int8_network("mobilenet_v1"), tmp_path / "run" / "best.safetensors")
    result: ExportResult = export(str(small), to="web", out=folder, images=1)
    assert result.precision == "int8"
    assert models_of(folder) == ["birds", "run"]
    assert "models/birds/model.onnx" in (folder / "service-worker.js").read_text(encoding="utf-8")
    export(model, to="web", out=folder, images=1)  # again: shown last, and there once
    assert models_of(folder) == ["run", "birds"]


def test_a_folder_with_something_else_in_it_is_left_alone(model: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear", encoding="utf-8")
    with pytest.raises(InputError, match="not empty, and not an exported page"):
        export(model, to="web", out=tmp_path / "mine")
    with pytest.raises(InputError, match="not a folder"):
        export(model, to="web", out=tmp_path / "mine" / "letter.txt")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]


def test_flags_of_files_are_refused(model: str) -> None:
    with pytest.raises(InputError, match="--pictures, --fixed"):
        export(model, to="web", fixed=True)


def test_a_page_that_computes_something_else_is_not_written(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(checkpoint: Checkpoint, **options: object) -> bytes:
        name = next(name for name in checkpoint.tensors if name.endswith("block_5_depthwise.weight"))
        tensors = {**checkpoint.tensors, name: np.asarray(checkpoint.tensors[name]) * 1.5}
        return to_onnx(replace(checkpoint, tensors=tensors), **options)  # type: ignore[arg-type]

    monkeypatch.setattr("mobilenets.formats.web_folder.to_onnx", spoiled)
    with pytest.raises(ParityError, match=r"block_5_depthwise .* differs first.*nothing was written"):
        export(model, to="web", out=tmp_path / "page", images=2)
    assert not (tmp_path / "page").exists()


def test_without_node_it_is_said_how_to_have_it(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="needs node, which is not installed"):
        export(model, to="web", out=tmp_path / "page")
    assert not (tmp_path / "page").exists()
