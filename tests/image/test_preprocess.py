from __future__ import annotations

import io
import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets.folder import default_loader
from torchvision.transforms import InterpolationMode, v2

from mobilenets.errors import InputError
from mobilenets.image import Preprocess, apply, fit, normalize, preprocess
from mobilenets.image.decode import decode


def picture_of(height: int, width: int, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    """Half noise, half smooth: what resizing gets wrong shows on one or the other."""
    random = np.random.default_rng(seed)
    noise = random.integers(0, 256, (height, width, channels), np.uint8)
    smooth = np.linspace(0, 255, width)[np.newaxis, :, np.newaxis] * np.ones((height, 1, channels))
    return np.where(np.arange(height)[:, np.newaxis, np.newaxis] < height // 2, noise, smooth).astype(np.uint8)


def on_pillow(picture: NDArray[np.uint8], p: Preprocess) -> NDArray[np.uint8]:
    image = Image.fromarray(picture[:, :, 0] if picture.shape[2] == 1 else picture)
    mode = InterpolationMode(p.interpolation)
    out = v2.CenterCrop((p.height, p.width))(v2.Resize(p.resize, mode, antialias=True)(image))
    return np.asarray(out).reshape(p.height, p.width, -1)


def on_tensor(picture: NDArray[np.uint8], p: Preprocess) -> NDArray[np.uint8]:
    tensor = torch.from_numpy(picture.copy()).permute(2, 0, 1)
    mode = InterpolationMode(p.interpolation)
    out = v2.CenterCrop((p.height, p.width))(v2.Resize(p.resize, mode, antialias=True)(tensor))
    result: NDArray[np.uint8] = out.permute(1, 2, 0).numpy()
    return result


@st.composite
def cases(draw: st.DrawFn) -> tuple[NDArray[np.uint8], Preprocess]:
    channels = draw(st.sampled_from([1, 3]))
    height, width = draw(st.integers(1, 48)), draw(st.integers(1, 48))
    crop = draw(st.integers(1, 150)), draw(st.integers(1, 150))
    p = Preprocess(
        height=crop[0],
        width=crop[1],
        channels=channels,
        resize=max(crop) + draw(st.integers(0, 40)),
        interpolation=draw(st.sampled_from(["bilinear", "bicubic"])),
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
    )
    enlarged = draw(st.integers(1, 8))
    return picture_of(height * enlarged, width, channels, seed=draw(st.integers(0, 9))), p


@settings(max_examples=150, deadline=None)
@given(cases())
def test_fit_is_torchvision_s_resize_and_centre_crop(case: tuple[NDArray[np.uint8], Preprocess]) -> None:
    picture, p = case
    ours = fit(picture, p)
    assert ours.shape == (p.height, p.width, p.channels)
    assert (ours == on_pillow(picture, p)).all()
    if p.interpolation == "bilinear":  # rows first or columns first: each way rounds twice, by half a level
        assert np.abs(ours.astype(int) - on_tensor(picture, p)).max() <= 2


@pytest.mark.parametrize(("height", "width"), [(375, 500), (501, 333), (224, 224), (225, 257), (31, 900)])
def test_fit_at_the_usual_sizes(height: int, width: int) -> None:
    p = Preprocess(224, 224, resize=256)
    picture = picture_of(height, width)
    assert (fit(picture, p) == on_pillow(picture, p)).all()
    assert np.abs(fit(picture, p).astype(int) - on_tensor(picture, p)).max() <= 1


@settings(max_examples=60, deadline=None)
@given(cases())
def test_computing_only_the_crop_differs_by_rounding_alone(
    case: tuple[NDArray[np.uint8], Preprocess],
) -> None:
    picture, p = case[0], replace(case[1], interpolation="bilinear")
    whole = fit(picture, p)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocess, "_WHOLE_RESIZE_PIXELS", 0)
        part = fit(picture, p)
    assert np.abs(whole.astype(int) - part).max() <= 2


def test_a_long_strip_does_not_swell() -> None:
    assert fit(picture_of(1, 60_000), Preprocess(224, 224, resize=256)).shape == (224, 224, 3)


def test_without_resize_the_picture_is_stretched() -> None:
    picture = picture_of(37, 91)
    stretched = fit(picture, Preprocess(48, 32))
    assert (stretched == np.asarray(Image.fromarray(picture).resize((32, 48), Image.Resampling.BILINEAR))).all()


def test_a_crop_wider_than_the_resized_picture_is_covered_without_black() -> None:
    white = np.full((50, 20, 3), 255, np.uint8)
    for p in (Preprocess(64, 96, resize=64), Preprocess(96, 64, resize=64), Preprocess(300, 300, resize=8)):
        fitted = fit(white, p)
        assert fitted.shape == (p.height, p.width, 3)
        assert fitted.min() == 255


def test_grey_and_colour_turn_into_each_other_as_in_pillow() -> None:
    colour = picture_of(20, 30)
    p = Preprocess(20, 30, channels=1, mean=(0.0,), std=(1.0,))
    assert (fit(colour, p)[:, :, 0] == np.asarray(Image.fromarray(colour).convert("L"))).all()
    grey = picture_of(20, 30, 1)
    assert (fit(grey, Preprocess(20, 30)) == grey).all()


def test_other_channel_counts_pass_or_are_refused() -> None:
    p = Preprocess(8, 8, channels=5, mean=(0.0,) * 5, std=(1.0,) * 5)
    picture = picture_of(16, 16, 5)
    single = Preprocess(8, 8, channels=1, mean=(0.0,), std=(1.0,))
    fitted = fit(picture, p)
    for channel in range(5):
        assert (fitted[:, :, channel] == fit(picture[:, :, channel : channel + 1], single)[:, :, 0]).all()
    with pytest.raises(InputError, match="5 channels cannot be turned into one of 3"):
        fit(picture, Preprocess(8, 8))


def test_an_empty_picture_is_refused() -> None:
    with pytest.raises(InputError, match="0 x 5 pixels is empty"):
        fit(np.zeros((0, 5, 3), np.uint8), Preprocess(8, 8))


def test_normalize_is_torchvision_s() -> None:
    batch = np.stack([picture_of(10, 12, seed=seed) for seed in range(3)])
    p = Preprocess(10, 12)
    reference = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(p.mean), list(p.std))])
    expected = reference(torch.from_numpy(batch).permute(0, 3, 1, 2)).numpy()
    ours = normalize(batch, p)
    assert ours.dtype == np.float32
    assert ours.flags.c_contiguous
    np.testing.assert_allclose(ours, expected, atol=2e-6)
    np.testing.assert_array_equal(apply(batch[1], p), ours[1])


def test_normalize_to_minus_one_and_one_reaches_both_ends() -> None:
    p = Preprocess(1, 2, channels=1, mean=(0.5,), std=(0.5,))
    assert normalize(np.array([[[[0], [255]]]], np.uint8), p).ravel().tolist() == [-1.0, 1.0]


def test_normalize_refuses_other_shapes() -> None:
    with pytest.raises(InputError, match=r"not \(N, H, W, 3\)"):
        normalize(np.zeros((2, 3, 8, 8), np.uint8), Preprocess(8, 8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 0}, "height must be a whole number"),
        ({"width": 2.5}, "width must be a whole number"),
        ({"resize": -1}, "resize must be a whole number"),
        ({"interpolation": "cubic"}, "'cubic' is not one of nearest, bilinear"),
        ({"mean": (0.5,)}, "1 values of mean for 3 channels"),
        ({"std": (0.5, 0.5, 0.0)}, "std must be above 0"),
        ({"mean": (0.5, 0.5, float("nan"))}, "mean must be finite"),
        ({"mean": ["a", "b", "c"]}, "mean must be a list of numbers"),
        ({"colour": 1}, r"unknown fields \['colour'\]"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Preprocess.from_json({"height": 8, "width": 8, **changes})


def test_json_brings_back_an_equal_preprocess() -> None:
    for p in (Preprocess(224, 192, resize=256), Preprocess(8, 9, 1, None, "bicubic", (0.5,), (0.25,))):
        assert Preprocess.from_json(json.loads(json.dumps(p.to_json()))) == p
    with pytest.raises(InputError, match=r"missing fields \['width'\]"):
        Preprocess.from_json({"height": 8})


def test_decode_then_apply_gives_network_input() -> None:
    stream = io.BytesIO()
    Image.fromarray(picture_of(60, 80)).save(stream, "PNG")
    assert apply(decode(stream.getvalue()), Preprocess(32, 32, resize=36)).shape == (3, 32, 32)


@pytest.mark.parametrize("name", ["china.jpg", "flower.jpg"])
def test_a_photograph_is_prepared_as_by_torchvision(name: str) -> None:
    """From the file to the network's input, within one grey level: 1 / (255 * 0.225) after normalization."""
    path = Path(str(files("sklearn.datasets.images") / name))
    p = Preprocess(224, 224, resize=256)
    mode = InterpolationMode(p.interpolation)
    steps = [v2.Resize(256, mode, antialias=True), v2.CenterCrop(224), v2.ToImage()]
    scaled = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(p.mean), list(p.std))]
    expected = v2.Compose([*steps, *scaled])(default_loader(str(path))).numpy()
    assert np.abs(apply(decode(path), p) - expected).max() <= 1 / (255 * min(p.std))
