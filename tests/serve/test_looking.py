"""Where a network looked: in 8 bits, ONNX Runtime says what numpy says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mobilenets.checkpoint import Checkpoint
from mobilenets.image.drawn import pictures
from mobilenets.serve.looking import looking

Network = Callable[..., Checkpoint]


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small"])
def test_eight_bits_by_onnx_and_by_numpy(name: str, random_int8_network: Network) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    checkpoint = random_int8_network(name)
    fast, exact = looking(checkpoint, "onnx"), looking(checkpoint, "reference")
    assert fast is not None
    assert exact is not None
    assert type(fast) is not type(exact)
    shown = list(pictures(checkpoint.card.preprocess, 4))
    (logits, heats), (meant, expected) = fast(shown), exact(shown)
    np.testing.assert_allclose(logits, meant, atol=float(np.ptp(meant)) / 50)  # a code or two apart
    assert (logits.argmax(axis=1) == meant.argmax(axis=1)).all()
    np.testing.assert_allclose(np.array(heats), np.array(expected), atol=0.1)
    assert all(max(map(max, heat)) == 1.0 for heat in heats)


def test_detectors_do_not_say(random_network: Network) -> None:
    assert looking(random_network("ssdlite_mobilenet_v2"), "onnx") is None
