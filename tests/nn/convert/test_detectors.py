"""Detectors of others: torchvision's SSDLite, and the TensorFlow Object Detection API's frozen graphs."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

import mobilenets
from mobilenets.arch import cost
from mobilenets.checkpoint import Checkpoint, load, save
from mobilenets.engine import reference
from mobilenets.errors import ConvertError
from mobilenets.image.boxes import iou
from mobilenets.image.decode import decode
from mobilenets.image.detection import Decoder
from mobilenets.image.preprocess import fit, normalize
from mobilenets.nn.network import from_checkpoint
from mobilenets.runtime import load as run_by

WRITER = Path(__file__).with_name("graph_def_writer.py")


def frozen(checkpoint: Checkpoint, **options: Any) -> bytes:
    spec = importlib.util.spec_from_file_location("graph_def_writer", WRITER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault("graph_def_writer", module)
    spec.loader.exec_module(module)
    content: bytes = module.frozen(checkpoint, **options)
    return content


@pytest.fixture(scope="module")
def theirs() -> torch.nn.Module:
    """Return torchvision's detector for COCO with random weights, and statistics that its signals survive."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model: torch.nn.Module = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight)
            elif isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.8, 1.2)
                module.bias.normal_(0, 0.2)
                module.running_mean.normal_(0, 0.2)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return model.eval()


@pytest.fixture(scope="module")
def converted(theirs: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("torchvision")
    torch.save(theirs.state_dict(), folder / "ssdlite.pth")
    return folder / "ours.safetensors", mobilenets.convert(folder / "ssdlite.pth", out=folder / "ours.safetensors")


def test_torchvisions_detector(converted: tuple[Path, Any]) -> None:
    path, result = converted
    card = load(path).card
    assert result.model == "ssdlite320_mobilenet_v3_large, width 1, 320x320"
    assert result.parameters == cost(card.plan).parameters == 3_440_060
    assert card.task == "detection"
    assert (len(card.labels), card.labels[0], card.labels[-1]) == (90, "person", "toothbrush")
    assert (card.preprocess.resize, card.preprocess.mean) == (None, (0.5, 0.5, 0.5))
    assert result.compared == 8


def test_torchvisions_raw_outputs(converted: tuple[Path, Any], theirs: Any) -> None:
    batch = torch.randn(2, 3, 320, 320, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        ours = from_checkpoint(load(converted[0]))(batch)
        heads = theirs.head(list(theirs.backbone(batch).values()))
    for values, maps in ((heads["bbox_regression"], ours[0::2]), (heads["cls_logits"], ours[1::2])):
        columns = values.shape[2]
        parts = [each.unflatten(1, (-1, columns)).permute(0, 3, 4, 1, 2).reshape(2, -1, columns) for each in maps]
        assert float((torch.cat(parts, 1) - values).abs().max() / values.abs().max()) < 1e-5


def test_torchvisions_detections(converted: tuple[Path, Any], theirs: Any) -> None:
    """Of the same picture, 320x320 already, both say the same boxes, classes and scores, in the same order."""
    picture = torch.rand(3, 320, 320, generator=torch.Generator().manual_seed(2))
    checkpoint = load(converted[0])
    with torch.inference_mode():
        (expected,) = theirs([picture])
        raw = from_checkpoint(checkpoint)((picture[None] - 0.5) / 0.5)
    (found,) = Decoder(checkpoint.card.plan)([each.numpy() for each in raw])
    assert len(found) == len(expected["scores"]) == 300
    np.testing.assert_allclose(found.scores, expected["scores"].numpy(), atol=1e-5)
    np.testing.assert_array_equal(found.classes + 1, expected["labels"].numpy())
    np.testing.assert_allclose(found.boxes, expected["boxes"].numpy(), atol=0.01)


@pytest.mark.parametrize("sigmoid", [False, True])
def test_a_frozen_graph(tmp_path: Path, random_network: Callable[..., Checkpoint], *, sigmoid: bool) -> None:
    """All that a graph says comes back: layers, epsilon, anchors, coder, thresholds, the kind of scores."""
    made = random_network("ssdlite_mobilenet_v2", padding="same")
    detector = replace(made.card.arch.detector, coder=(9.0, 8.0, 4.0, 3.0), nms_iou=0.45, score_threshold=0.3)  # type: ignore[type-var]
    assert detector is not None
    arch = replace(made.card.arch, bn_eps=1e-3, detector=detector)
    made = replace(made, card=replace(made.card, arch=arch))
    (tmp_path / "frozen.pb").write_bytes(frozen(made, sigmoid=sigmoid))
    (tmp_path / "labels.txt").write_text("a\nb\nc\nd\ne\nf\ng\n", encoding="utf-8")
    result = mobilenets.convert(
        tmp_path / "frozen.pb", out=tmp_path / "ours.safetensors", labels=tmp_path / "labels.txt"
    )
    assert result.model == "ssdlite_mobilenet_v2, width 0.25, 48x48"
    ours = load(tmp_path / "ours.safetensors")
    found = ours.card.arch.detector
    assert found is not None
    assert found.scores == ("sigmoid" if sigmoid else "softmax")
    assert (found.coder, found.nms_iou, found.score_threshold) == ((9.0, 8.0, 4.0, 3.0), 0.45, 0.3)
    for mine, theirs in zip(found.anchors.levels, detector.anchors.levels, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6)
    assert ours.card.labels == tuple("abcdefg")
    assert ours.card.plan.ops == made.card.plan.ops
    batch = np.random.default_rng(0).normal(size=(2, 3, 48, 48)).astype(np.float32)
    expected = reference.run(made, batch)
    assert np.abs(reference.run(ours, batch) - expected).max() < 1e-4 * np.abs(expected).max()


def test_frozen_graphs_that_are_refused(tmp_path: Path, random_network: Callable[..., Checkpoint]) -> None:
    content = frozen(random_network("ssdlite_mobilenet_v2", padding="same"))
    damaged = tmp_path / "damaged.pb"
    for cut in (100, len(content) // 2, len(content) - 3):
        damaged.write_bytes(content[:cut])
        with pytest.raises(ConvertError, match=r"damaged\.pb: "):
            mobilenets.convert(damaged, out=tmp_path / "ours.safetensors")
    (tmp_path / "other.pb").write_bytes(content.replace(b"ClassPredictor", b"ClassPretender"))
    with pytest.raises(ConvertError, match=r"other\.pb: a TensorFlow graph, but not a frozen detector"):
        mobilenets.convert(tmp_path / "other.pb", out=tmp_path / "ours.safetensors")
    assert not (tmp_path / "ours.safetensors").exists()


def test_the_pedestrian_detector_says_what_tensorflow_says(shared_data: Path, tmp_path: Path) -> None:
    """TensorFlow 2.21 ran the graph on ten pictures: boxes within half a pixel, scores within 1e-3, the first twenty.

    tests/golden/tensorflow_ssdlite.json is what it said of the pictures as `image.fit` leaves them.
    """
    golden = Path(__file__).parents[2] / "golden" / "tensorflow_ssdlite.json"
    expected = json.loads(golden.read_text(encoding="utf-8"))["pictures"]
    source = shared_data / "weights" / "ped_ssdlite" / "frozen_inference_graph.pb"
    mobilenets.convert(source, out=tmp_path / "ours.safetensors")
    card = load(tmp_path / "ours.safetensors").card
    assert (card.resolution, card.arch.padding) == ((300, 300), "same")
    assert card.arch.bn_eps == pytest.approx(1e-3)
    folders = (shared_data / "images", shared_data / "photos500" / "images")
    paths = [next(each / name for each in folders if (each / name).is_file()) for name in expected]
    batch = normalize(np.stack([fit(decode(path), card.preprocess) for path in paths]), card.preprocess)
    with closing(run_by(str(tmp_path / "ours.safetensors"), "torch")) as predictor:
        found = Decoder(card.plan)(predictor.run(batch))
    for path, each in zip(paths, found, strict=True):
        rows = np.array(expected[path.name], np.float32)
        np.testing.assert_allclose(each.boxes[: len(rows)], rows[:, :4], atol=0.5, err_msg=path.name)
        np.testing.assert_allclose(each.scores[: len(rows)], rows[:, 4], atol=1e-3, err_msg=path.name)


def test_tensorflow_itself_agrees(shared_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow", reason="pip install tensorflow-cpu in an environment of its own")
    source = shared_data / "weights" / "ped_ssdlite" / "frozen_inference_graph.pb"
    result = mobilenets.convert(source, out=tmp_path / "ours.safetensors")
    assert result.max_abs_error is not None
    assert result.max_abs_error < 1e-3


def test_one_detector_in_every_runtime(shared_data: Path, tmp_path: Path) -> None:
    """Equal detections: every box has its like, overlapping by more than 0.99, with a score within 1e-3."""
    source = shared_data / "weights" / "ped_ssdlite" / "frozen_inference_graph.pb"
    mobilenets.convert(source, out=tmp_path / "ours.safetensors")
    checkpoint = load(save(load(tmp_path / "ours.safetensors"), tmp_path / "again.safetensors"))
    card = checkpoint.card
    picture = fit(decode(shared_data / "images" / "grace_hopper.bmp"), card.preprocess)
    batch = normalize(picture[np.newaxis], card.preprocess)
    decoder = Decoder(card.plan, score_threshold=0.01)
    found = {}
    for name in ("torch", "onnx", "openvino", "litert"):
        with closing(run_by(checkpoint, name)) as predictor:
            (found[name],) = decoder(predictor.run(batch))
    expected = found.pop("torch")
    assert len(expected) > 5
    for name, each in found.items():
        assert len(each) == len(expected), name
        assert np.diag(iou(each.boxes, expected.boxes)).min() > 0.99, name
        np.testing.assert_allclose(each.scores, expected.scores, atol=1e-3, err_msg=name)
