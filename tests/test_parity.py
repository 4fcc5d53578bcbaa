from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mobilenets.checkpoint import Checkpoint
from mobilenets.engine import reference
from mobilenets.engine.quantized import dequantize, quantizations
from mobilenets.errors import InputError
from mobilenets.image.preprocess import fit, normalize
from mobilenets.parity import (
    BY_REFERENCE,
    TOLERANCES,
    Tolerance,
    compare,
    first_difference,
    meaning,
    pictures_for,
)

Logits = npt.NDArray[np.float32]


def logits(*rows: list[float]) -> Logits:
    return np.array(rows, np.float32)


def test_the_same_is_the_same() -> None:
    parity = compare(logits([0, 1, 2], [2, 1, 0]), logits([0, 1, 2], [2, 1, 0]))
    assert (parity.max_abs_error, parity.top1_agreement, parity.clear_agreement, parity.variation) == (0, 1, 1, 1)
    assert parity.objection(TOLERANCES["float32"]) is None


def test_errors_are_of_the_range_of_all_logits() -> None:
    parity = compare(logits([0, 10], [5, 0]), logits([0, 10.5], [5, 0]))
    assert (parity.max_abs_error, parity.relative_error, parity.images) == (0.5, 0.05, 2)
    assert "off by 5 % of the logits' range" in str(parity.objection(TOLERANCES["float32"]))
    assert parity.objection(Tolerance(0.06, 1.0)) is None


def test_only_clear_answers_have_to_agree() -> None:
    expected = logits([0, 1, 1.001], [0, 2, 10], [9, 2, 1])
    measured = logits([0, 1.001, 1], [0, 2, 10], [9, 2, 1])
    parity = compare(expected, measured)
    assert parity.top1_agreement == pytest.approx(2 / 3)
    assert (parity.clear_agreement, parity.clear) == (1.0, 2)
    assert parity.objection(TOLERANCES["float32"]) is None
    parity = compare(expected, -measured)
    assert parity.clear_agreement == 0
    assert "agrees in 0.00 % of 2 clear answers" in str(parity.objection(Tolerance(9.0, 0.9)))


def test_a_network_that_says_the_same_of_everything_has_collapsed() -> None:
    expected = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    measured = expected.mean(0) + 0.01 * expected
    assert compare(expected, measured).collapsed
    assert "collapsed" in str(compare(expected, measured).objection(Tolerance(9.0, 0.0)))
    assert not compare(expected, 0.5 * expected).collapsed
    constant = np.tile(expected[:1], (20, 1))
    assert not compare(constant, constant).collapsed  # nor does what it was made from vary


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_what_gives_no_numbers_is_objected_to(broken: float) -> None:
    parity = compare(logits([0, 1]), logits([0, broken]))
    assert "no numbers" in str(parity.objection(Tolerance(9.0, 0.0)))


def test_logits_of_other_shapes_are_not_comparable() -> None:
    for measured in (logits([0, 1, 2]), logits([0, 1], [0, 1]), np.zeros((0, 2), np.float32)):
        with pytest.raises(ValueError, match="not comparable"):
            compare(measured, logits([0, 1]))


@settings(deadline=None)
@given(st.integers(2, 6), st.integers(1, 8), st.floats(0, 1e-3), st.integers(0, 99))
def test_within_the_tolerance_no_clear_answer_differs(classes: int, count: int, error: float, seed: int) -> None:
    """That the clear answers agree follows, for float32, from the error of the logits."""
    random = np.random.default_rng(seed)
    expected = random.normal(size=(count, classes)).astype(np.float32)
    shift = random.uniform(-error, error, expected.shape) * np.ptp(expected)
    parity = compare(expected, (expected + shift).astype(np.float32))
    assert parity.relative_error < 1.001e-3
    assert parity.clear_agreement == 1


def traced(checkpoint: Checkpoint, batch: Logits, spoil: dict[str, Callable[[Any], Any]]) -> dict[str, Logits]:
    """Run a network as a runtime would whose operations `spoil` changes, and return what it shows."""
    by, layout = reference.arithmetic(checkpoint), checkpoint.card.plan
    steps = quantizations(checkpoint)
    live = {"input": by.enter(batch)}
    for op in layout.ops:
        live[op.name] = by.compute(op, *(live[source] for source in op.sources))
        if op.name in spoil:
            live[op.name] = spoil[op.name](live[op.name])
    shown = {name: dequantize(value, steps[name]) if name in steps else value for name, value in live.items()}
    return {name: value.astype(np.float32) for name, value in shown.items() if name != "input"}


def batch_for(checkpoint: Checkpoint, count: int = 1) -> Logits:
    return normalize(pictures_for(checkpoint.card, None, count).fitted, checkpoint.card.preprocess)


@pytest.mark.parametrize("op", ["stem", "block_3_depthwise", "block_5_add", "classifier"])
def test_the_operation_at_fault_is_found(random_network: Callable[..., Checkpoint], op: str) -> None:
    checkpoint = random_network("mobilenet_v2")
    batch = batch_for(checkpoint)
    whole = traced(checkpoint, batch, {})
    found = first_difference(checkpoint, whole, batch)
    assert found is not None
    assert not found.at_fault
    assert found.error < 1e-6
    values = traced(checkpoint, batch, {op: lambda value: value + 0.01 * np.ptp(value)})
    found = first_difference(checkpoint, values, batch)
    assert found is not None
    assert (found.op, found.at_fault) == (op, True)
    assert found.error == pytest.approx(0.01, rel=1e-3)


def test_what_is_hidden_is_found_at_the_next_that_is_shown(random_network: Callable[..., Checkpoint]) -> None:
    checkpoint = random_network("mobilenet_v2")
    batch = batch_for(checkpoint)
    values = traced(checkpoint, batch, {"block_3_expand": lambda value: value + 0.1})
    shown = {name: value for name, value in values.items() if name in ("stem", "block_3_depthwise", "classifier")}
    found = first_difference(checkpoint, shown, batch)
    assert found is not None
    assert found.op == "block_3_depthwise"
    assert first_difference(checkpoint, {}, batch) is None


def test_a_map_of_another_size_differs_wholly(random_network: Callable[..., Checkpoint]) -> None:
    checkpoint = random_network("mobilenet_v2")
    batch = batch_for(checkpoint)
    values = traced(checkpoint, batch, {})
    values["block_2_depthwise"] = values["block_2_depthwise"][:, :, 1:]
    found = first_difference(checkpoint, values, batch)
    assert found is not None
    assert (found.op, found.error) == ("block_2_depthwise", float("inf"))


def test_int8_operations_may_be_off_by_one_step_and_not_by_two(random_int8_network: Callable[..., Checkpoint]) -> None:
    checkpoint = random_int8_network("mobilenet_v3_small")
    batch = batch_for(checkpoint)

    def off_by(steps: int) -> Callable[[Any], Any]:
        return lambda codes: np.where(codes < 250, codes + steps, codes - steps).astype(np.uint8)

    found = first_difference(checkpoint, traced(checkpoint, batch, {"block_4_expand": off_by(1)}), batch)
    assert found is not None
    assert (found.op, found.at_fault) == ("block_4_expand", False)
    assert found.error == pytest.approx(1, abs=1e-3)
    found = first_difference(checkpoint, traced(checkpoint, batch, {"block_4_expand": off_by(2)}), batch)
    assert found is not None
    assert (found.op, found.at_fault) == ("block_4_expand", True)


@pytest.mark.parametrize("count", [2, BY_REFERENCE + 3])
def test_the_meaning_is_the_references(random_network: Callable[..., Checkpoint], count: int) -> None:
    checkpoint = random_network("mobilenet_v2")
    fitted = np.random.default_rng(0).integers(0, 256, (count, 48, 48, 3), np.uint8)
    expected = reference.run(checkpoint, normalize(fitted, checkpoint.card.preprocess))
    assert compare(expected, meaning(checkpoint, fitted)).relative_error < 1e-5


def test_pictures_are_drawn_where_none_are_given(colour_checkpoint: Checkpoint) -> None:
    shown = pictures_for(colour_checkpoint.card, None, 100)
    assert (shown.name, shown.fitted.shape) == ("drawn pictures", (8, 16, 16, 3))
    assert pictures_for(colour_checkpoint.card, None, 3).fitted.shape == (3, 16, 16, 3)


def test_a_folder_of_nothing_but_pictures_will_do(colour_checkpoint: Checkpoint, tmp_path: Path) -> None:
    for index in range(7):
        Image.new("RGB", (20, 30), (index, 0, 0)).save(tmp_path / f"{index}.png")
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("nor this")
    shown = pictures_for(colour_checkpoint.card, str(tmp_path), 100)
    assert shown.fitted[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert shown.name == tmp_path.name  # the card of a file that is handed on does not tell of its maker's folders
    assert pictures_for(colour_checkpoint.card, str(tmp_path), 3).fitted[:, 0, 0, 0].tolist() == [
        0,
        4,
    ]  # the last is broken
    grey = replace(
        colour_checkpoint.card,
        in_channels=1,
        preprocess=replace(colour_checkpoint.card.preprocess, channels=1, mean=(0.0,), std=(1.0,)),
    )
    assert pictures_for(grey, str(tmp_path), 100).fitted.shape == (7, 16, 16, 1)


def test_a_data_set_is_sampled_over_its_classes(colour_checkpoint: Checkpoint, tmp_path: Path) -> None:
    for label, count in (("cats", 9), ("dogs", 2)):
        (tmp_path / label).mkdir()
        for index in range(count):
            Image.new("RGB", (16, 16), (10 * index, count, 0)).save(tmp_path / label / f"{index}.png")
    shown = pictures_for(colour_checkpoint.card, str(tmp_path), 4)
    assert shown.name == tmp_path.name
    assert sorted(shown.fitted[:, 0, 0, 1].tolist()) == [2, 2, 9, 9]
    first = fit(np.full((16, 16, 3), (0, 9, 0), np.uint8), colour_checkpoint.card.preprocess)
    assert any((first == picture).all() for picture in pictures_for(colour_checkpoint.card, str(tmp_path), 99).fitted)


def test_nothing_readable_is_an_error(colour_checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"none of its pictures can be read: .*a\.jpg"):
        pictures_for(colour_checkpoint.card, str(tmp_path), 5)
    with pytest.raises(InputError, match="no such data set"):
        pictures_for(colour_checkpoint.card, str(tmp_path / "gone"), 5)
