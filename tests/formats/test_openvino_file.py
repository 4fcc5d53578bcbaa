from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mobilenets.checkpoint import Checkpoint
from mobilenets.engine import reference
from mobilenets.engine.folding import folded
from mobilenets.errors import MissingExtraError
from mobilenets.formats import openvino_file
from mobilenets.formats.openvino_file import to_openvino
from mobilenets.image.preprocess import normalize

Networks = Callable[..., Checkpoint]


def run(xml: bytes, weights: bytes, batch: np.ndarray, folder: Path) -> np.ndarray:
    (folder / "model.xml").write_bytes(xml)
    (folder / "model.bin").write_bytes(weights)
    compiled = openvino_file.core().compile_model(folder / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    logits: np.ndarray = compiled({"input": batch})["logits"]
    return logits


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("sides", [(48, 48), (33, 58)])
def test_logits_are_the_references(
    random_network: Networks, tmp_path: Path, padding: str, sides: tuple[int, int]
) -> None:
    checkpoint = random_network("mobilenet_v3_small", padding=padding)
    batch = np.random.default_rng(0).normal(size=(2, 3, *sides)).astype(np.float32)
    expected = reference.run(checkpoint, batch)
    actual = run(*to_openvino(checkpoint), batch, tmp_path)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_pictures_are_normalized_in_the_graph(random_network: Networks, tmp_path: Path) -> None:
    checkpoint = random_network("mobilenet_v2")
    preprocess = replace(checkpoint.card.preprocess, mean=(0.2, 0.5, 0.7), std=(0.3, 0.2, 0.1))
    checkpoint = replace(checkpoint, card=replace(checkpoint.card, preprocess=preprocess))
    pictures = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), np.uint8)
    expected = reference.run(checkpoint, normalize(pictures, preprocess))
    actual = run(*to_openvino(checkpoint, pictures=True, resolution="fixed"), pictures, tmp_path)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_weights_stay_as_they_are(random_network: Networks) -> None:
    """OpenVINO's own default rounds them to 16 bits."""
    checkpoint = random_network("mobilenet_v2")
    _, weights = to_openvino(checkpoint)
    assert folded(checkpoint)["head"].weight.tobytes() in weights


def test_the_card_is_there_once(colour_checkpoint: Checkpoint) -> None:
    xml, _ = to_openvino(colour_checkpoint)
    assert xml.count(b"<mobilenets ") == xml.count(b"bottleneck_activation") == 1


def test_int8_weights_take_a_byte_each(random_network: Networks, random_int8_network: Networks) -> None:
    _, real = to_openvino(random_network("mobilenet_v2"))
    _, small = to_openvino(random_int8_network("mobilenet_v2"))
    assert len(small) < 0.45 * len(real)


def test_without_openvino_the_extra_is_named(colour_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"mobilenets\[openvino\]"):
        to_openvino(colour_checkpoint)


def test_importing_openvino_sends_nothing() -> None:
    """By itself it starts a thread that reports the import to a server."""
    code = """
import os, sys, threading
os.environ.pop("CI", None)
from mobilenets.formats.openvino_file import core
assert core().available_devices
print(threading.active_count(), sorted(name for name in sys.modules if name.startswith("openvino_telemetry")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "1 []"
