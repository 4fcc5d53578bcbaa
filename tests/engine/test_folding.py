from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mobilenets.checkpoint import Checkpoint
from mobilenets.engine.folding import folded, unfolded
from mobilenets.errors import CheckpointError

RandomNetwork = Callable[..., Checkpoint]


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v3_small"])
def test_layers_become_a_checkpoint_of_the_same_layers(random_network: RandomNetwork, name: str) -> None:
    checkpoint = random_network(name)
    layers = folded(checkpoint)
    made = unfolded(checkpoint.card, layers)
    assert made.card.batch_norm == "folded"
    assert made.tensors.keys() == checkpoint.tensors.keys()
    again = folded(made)
    assert again.keys() == layers.keys()
    for key, layer in layers.items():
        np.testing.assert_allclose(again[key].weight, layer.weight, rtol=1e-6)
        np.testing.assert_array_equal(again[key].bias, layer.bias)


def test_an_int8_network_has_nothing_to_fold(random_int8_network: RandomNetwork) -> None:
    with pytest.raises(CheckpointError, match="this one is int8"):
        folded(random_int8_network("mobilenet_v1"))
