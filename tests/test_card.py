from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobilenets.arch import ARCHITECTURES, Arch, plan
from mobilenets.checkpoint import Card, Metric, tensor_shapes
from mobilenets.errors import InputError
from mobilenets.image import Preprocess

DOCUMENT = Card(ARCHITECTURES["mobilenet_v2"], 1.0, (32, 48), ("cat", "dog"), Preprocess(32, 48)).to_json()

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
CARDS = st.builds(
    Card,
    arch=st.sampled_from(list(ARCHITECTURES.values())),
    width=st.floats(0.05, 4),
    resolution=st.tuples(st.integers(1, 4000), st.integers(1, 4000)),
    labels=st.lists(TEXT, min_size=1, max_size=5).map(tuple),
    preprocess=st.builds(
        Preprocess,
        height=st.integers(1, 999),
        width=st.integers(1, 999),
        resize=st.none() | st.integers(1, 999),
        mean=st.tuples(NUMBERS, NUMBERS, NUMBERS),
    ),
    precision=st.sampled_from(["float32", "int8"]),
    batch_norm=st.sampled_from(["trained", "folded"]),
    metrics=st.lists(st.builds(Metric, TEXT, NUMBERS, TEXT, st.integers(0, 10**9)), max_size=2).map(tuple),
    recipe=st.none() | st.dictionaries(TEXT, JSON, max_size=3),
    origin=st.none() | TEXT,
    parent=st.none() | TEXT,
    notes=st.lists(TEXT, max_size=2).map(tuple),
).map(lambda card: replace(card, task="detection" if card.arch.detector else "classification"))


@given(CARDS)
@settings(max_examples=60)
def test_any_card_survives_json(card: Card) -> None:
    assert Card.from_json(json.loads(json.dumps(card.to_json()))) == card


@pytest.mark.parametrize("arch", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_every_architecture_has_a_card(arch: Arch) -> None:
    channels = arch.in_channels
    mean = (0.5,) * channels
    fed = Preprocess(arch.resolution, arch.resolution, channels=channels, mean=mean, std=mean)
    task = "detection" if arch.detector else "classification"
    card = Card(arch, 0.35, (arch.resolution, arch.resolution), ("a", "b"), fed, in_channels=channels, task=task)
    back = Card.from_json(json.loads(json.dumps(card.to_json())))
    assert tensor_shapes(back.plan) == tensor_shapes(plan(arch, width=0.35, classes=2))


STRANGE: dict[str, object] = {
    "null": None,
    "text": "x",
    "negative": -1,
    "inf": math.inf,
    "list": [],
    "object": {"a": 1},
}
FINE = {
    "null": "origin parent recipe quantization",
    "object": "recipe quantization",
    "text": "origin parent precision task batch_norm",
    "list": "metrics notes",
}


@pytest.mark.parametrize("field", sorted(DOCUMENT.keys() - {"format"}))
@pytest.mark.parametrize("kind", STRANGE)
def test_no_value_of_a_card_is_taken_on_trust(field: str, kind: str) -> None:
    document = DOCUMENT | {field: STRANGE[kind]}
    if field in FINE.get(kind, "").split():
        assert Card.from_json(document).to_json() == document
        return
    with pytest.raises(InputError):
        _ = Card.from_json(document).plan


@pytest.mark.parametrize("field", sorted(DOCUMENT.keys() - {"format", "quantization"}))
def test_a_missing_field_is_named(field: str) -> None:
    document = {key: value for key, value in DOCUMENT.items() if key != field}
    with pytest.raises(InputError, match=field):
        Card.from_json(document)


def test_cards_older_than_int8_say_nothing_of_quantization() -> None:
    document = {key: value for key, value in DOCUMENT.items() if key != "quantization"}
    assert Card.from_json(document).quantization is None


def test_channels_of_picture_and_network_must_agree() -> None:
    document = DOCUMENT | {"in_channels": 1}
    with pytest.raises(InputError, match="pictures of 3 channels for a network of 1"):
        Card.from_json(document)
