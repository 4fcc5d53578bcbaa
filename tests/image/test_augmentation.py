from __future__ import annotations

import json

import pytest

from mobilenets.errors import InputError
from mobilenets.image import Augmentation


def test_json_brings_back_an_equal_augmentation() -> None:
    for augmentation in (
        Augmentation(),
        Augmentation(
            "photo", flip=True, scale=(0.08, 1.0), color=0.2, policy="trivial", erase=0.1, mixup=0.2, cutmix=1
        ),
    ):
        assert Augmentation.from_json(json.loads(json.dumps(augmentation.to_json()))) == augmentation


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "warp"}, "kind 'warp' is not one of none, crop, photo"),
        ({"policy": "auto"}, "policy 'auto' is not one of trivial, rand"),
        ({"shift": -0.1}, r"shift must lie in 0\.\.1"),
        ({"rotate": 270}, r"rotate must lie in 0\.\.180"),
        ({"mixup": float("inf")}, "mixup must be 0"),
        ({"cutmix": -1}, "cutmix must be 0"),
        ({"scale": (0.5, 0.2)}, "scale must be two fractions"),
        ({"ratio": (0.0, 1.0)}, "ratio must be two numbers"),
        ({"erase": "often"}, "wrong type"),
        ({"blur": 1}, r"unknown fields \['blur'\]"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Augmentation.from_json(changes)


def test_mixes_says_whether_targets_become_rows() -> None:
    assert not Augmentation().mixes
    assert Augmentation(mixup=0.2).mixes
    assert Augmentation(cutmix=1.0).mixes
