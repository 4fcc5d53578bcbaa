"""What every runtime owes: each test runs for each of them, most for each architecture as well."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import numpy as np
import numpy.typing as npt
import pytest
import torch

from mobilenets.arch import CLASSIFIERS
from mobilenets.checkpoint import Checkpoint
from mobilenets.engine import reference
from mobilenets.errors import InputError
from mobilenets.nn.network import from_checkpoint
from mobilenets.runtime import RUNTIMES, Predictor, load
from tests.contract.installed import installed

CLASSES = tuple("abcdefg")
SIDE = 48
Batch = npt.NDArray[np.float32]
Networks = Callable[..., Checkpoint]


def random_batch(count: int, height: int = SIDE, width: int = SIDE, channels: int = 3, seed: int = 0) -> Batch:
    """Return noise, each picture and channel of another brightness and contrast."""
    random = np.random.default_rng(seed)
    noise = random.normal(size=(count, channels, height, width))
    brightness, contrast = random.normal(size=(2, count, channels, 1, 1))
    batch: Batch = (brightness + contrast * noise).astype(np.float32)
    return batch


def assert_close(actual: Batch, expected: npt.NDArray[np.floating], relative: float = 2e-5) -> None:
    """Compare with a tolerance that is a share of the largest value."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=relative * float(np.abs(expected).max()))


@pytest.fixture(params=list(RUNTIMES))
def runtime(request: pytest.FixtureRequest) -> str:
    return installed(request.param)


@pytest.fixture
def predictor(runtime: str, random_network: Networks) -> Iterator[Predictor]:
    with closing(load(random_network("mobilenet_v2"), runtime)) as loaded:
        yield loaded


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_logits_are_those_of_the_plain_network(runtime: str, name: str, random_network: Networks) -> None:
    batch = random_batch(3)
    with torch.no_grad():
        expected = from_checkpoint(random_network(name)).double()(torch.from_numpy(batch).double()).numpy()
    assert np.ptp(expected, axis=0).min() > 1e-3  # the pictures are told apart at all
    with closing(load(random_network(name), runtime)) as predictor:
        outputs = predictor.run(batch)
    assert len(outputs) == 1
    assert outputs[0].shape == (3, len(CLASSES))
    assert outputs[0].dtype == np.float32
    # Such a network answers a change of its input by 1e-6 with up to 5e-5; a wrong padding or eps costs 1e-3 and more.
    assert_close(outputs[0], expected, 1e-4)


@pytest.mark.parametrize("name", ["ssdlite_mobilenet_v2", "ssdlite_mobilenet_v3_small"])
@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("sides", [(SIDE, SIDE), (96, 64)])
def test_a_detectors_maps_are_those_of_the_plain_network(
    runtime: str, name: str, padding: str, sides: tuple[int, int], random_network: Networks
) -> None:
    checkpoint = random_network(name, padding=padding)
    batch = random_batch(2, *sides)
    with torch.no_grad():
        expected = [value.numpy() for value in from_checkpoint(checkpoint).double()(torch.from_numpy(batch).double())]
    with closing(load(checkpoint, runtime)) as predictor:
        outputs = predictor.run(batch)
        nothing = predictor.run(batch[:0])
    layout = checkpoint.card.plan
    assert len(outputs) == len(layout.outputs) == 2 * 6
    for op, output, none, meant in zip(map(layout.op, layout.outputs), outputs, nothing, expected, strict=True):
        assert output.shape == meant.shape
        assert output.shape[1] == op.out[0]
        assert output.dtype == none.dtype == np.float32
        assert none.shape == (0, *op.out)
        assert_close(output, meant, 5e-4)


@pytest.mark.parametrize(
    "name", ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small", "mnasnet_a1", "ssdlite_mobilenet_v2"]
)
def test_int8_is_as_near_the_reference_as_rounding_allows(
    runtime: str, name: str, random_network: Networks, random_int8_network: Networks
) -> None:
    """Runtimes may leave out a rounding to codes between two operations: no more than quantization itself changes.

    What each of their operations does is tested to the code beside them.
    """
    if "int8" not in RUNTIMES[runtime].precisions:
        pytest.skip(f"{runtime} runs float32 alone")
    batch = random_batch(5)
    expected = reference.run(random_int8_network(name), batch)
    lost = float(np.square(reference.run(random_network(name), batch) - expected).mean() ** 0.5)
    with closing(load(random_int8_network(name), runtime)) as predictor:
        answers = reference.flat(predictor.run(batch))
    assert answers.dtype == np.float32
    assert float(np.square(answers - expected).mean() ** 0.5) <= 1.5 * lost


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_number_of_channels(runtime: str, channels: int, random_network: Networks) -> None:
    with closing(load(random_network("mobilenet_v2", channels=channels), runtime)) as predictor:
        assert predictor.run(random_batch(2, channels=channels))[0].shape == (2, len(CLASSES))
        with pytest.raises(InputError, match="does not fit"):
            predictor.run(random_batch(2, channels=channels + 1))


@pytest.mark.parametrize("sides", [(SIDE, SIDE), (33, 57), (1, 1), (96, 32), (224, 224)])
def test_any_height_and_width(predictor: Predictor, sides: tuple[int, int]) -> None:
    (logits,) = predictor.run(random_batch(2, *sides))
    assert logits.shape == (2, len(CLASSES))
    assert np.isfinite(logits).all()


def test_the_card_is_the_checkpoints(predictor: Predictor, random_network: Networks) -> None:
    assert predictor.card == random_network("mobilenet_v2").card


def test_the_same_batch_gives_the_same_bits(predictor: Predictor) -> None:
    batch = random_batch(4)
    np.testing.assert_array_equal(predictor.run(batch)[0], predictor.run(batch)[0])


def test_outputs_are_not_overwritten_by_the_next_run(predictor: Predictor) -> None:
    first = predictor.run(random_batch(2, seed=1))[0]
    kept = first.copy()
    predictor.run(random_batch(2, seed=2))
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_pictures_do_not_influence_one_another(predictor: Predictor, count: int) -> None:
    batch = random_batch(count)
    one_by_one = np.concatenate([predictor.run(batch[index : index + 1])[0] for index in range(count)])
    assert_close(predictor.run(batch)[0], one_by_one)


def test_a_large_batch_is_as_its_parts(predictor: Predictor) -> None:
    """Sixteen pictures of 224 pixels are more than a runtime may compute at once."""
    batch = random_batch(16, 224, 224)
    parts = np.concatenate([predictor.run(part)[0] for part in np.split(batch, 4)])
    assert_close(predictor.run(batch)[0], parts)


def test_the_batch_is_left_as_it_was_and_may_be_read_only_or_strided(predictor: Predictor) -> None:
    batch = random_batch(2)
    batch.flags.writeable = False
    before = batch.copy()
    expected = predictor.run(batch)[0]
    np.testing.assert_array_equal(batch, before)
    strided = np.ascontiguousarray(batch.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert not strided.flags.c_contiguous
    assert_close(predictor.run(strided)[0], expected)


def test_no_pictures_are_no_answers(predictor: Predictor) -> None:
    (logits,) = predictor.run(random_batch(0))
    assert logits.shape == (0, len(CLASSES))
    assert logits.dtype == np.float32


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (random_batch(1)[0], r"shape \(3, 48, 48\).*\(N, 3, H, W\), here H = 48 and W = 48"),
        (random_batch(1).transpose(0, 2, 3, 1), r"shape \(1, 48, 48, 3\)"),
        (random_batch(1).astype(np.float64), "batch of float64.*normalize"),
        (np.zeros((1, 3, SIDE, SIDE), np.uint8), "batch of uint8.*normalize"),
        (random_batch(1, 0, SIDE), "without pixels"),
        (random_batch(1).tolist(), "not list"),
    ],
)
def test_batches_that_do_not_fit_are_refused(predictor: Predictor, batch: Batch, message: str) -> None:
    with pytest.raises(InputError, match=message):
        predictor.run(batch)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_changes_no_answer(
    runtime: str, predictor: Predictor, threads: int, random_network: Networks
) -> None:
    batch = random_batch(3)
    with closing(load(random_network("mobilenet_v2"), runtime, threads)) as threaded:
        assert_close(threaded.run(batch)[0], predictor.run(batch)[0])


def test_a_closed_predictor_refuses_to_run(runtime: str, random_network: Networks) -> None:
    predictor = load(random_network("mobilenet_v2"), runtime)
    predictor.close()
    predictor.close()
    with pytest.raises(InputError, match="closed"):
        predictor.run(random_batch(1))
    assert predictor.card.labels == CLASSES


def test_two_predictors_do_not_share_weights(runtime: str, predictor: Predictor, random_network: Networks) -> None:
    batch = random_batch(1)
    before = predictor.run(batch)[0]
    with closing(load(random_network("mobilenet_v3_small"), runtime)) as other:
        other.run(batch)
    np.testing.assert_array_equal(predictor.run(batch)[0], before)
