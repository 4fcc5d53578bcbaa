"""The page's preprocessing, run by Node, against the package's own."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mobilenets.image import Preprocess
from mobilenets.image.preprocess import INTERPOLATIONS, fit, resize, resized_sides, with_channels
from mobilenets.page import files

NODE = shutil.which("node")
RUNNER = Path(__file__).with_name("fit.mjs")


def fitted(
    folder: Path, cases: list[tuple[np.ndarray, int, Preprocess]]
) -> tuple[list[np.ndarray], list[dict[str, float]]]:
    """Fit pictures, uint8 (H, W, 3) or (H, W, 1) stored with so many bytes a pixel, in JavaScript."""
    if NODE is None:
        pytest.skip("node is not installed: apt-get install nodejs")
    (folder / "preprocess.mjs").write_bytes(files()["preprocess.js"])
    described = []
    for index, (picture, step, preprocess) in enumerate(cases):
        height, width = picture.shape[:2]
        opaque = np.full((height, width, 1), 255, np.uint8)
        stored = picture if picture.shape[2] == step else np.concatenate([with_channels(picture, 3), opaque], 2)
        assert stored.shape[2] == step
        (folder / f"{index}.in").write_bytes(stored.tobytes())
        described.append({"height": height, "width": width, "step": step, "preprocess": preprocess.to_json()})
    (folder / "cases.json").write_text(json.dumps(described), encoding="utf-8")
    done = subprocess.run(
        [NODE, str(RUNNER), str(folder / "preprocess.mjs"), str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    results = []
    for index, (_, _, preprocess) in enumerate(cases):
        values = np.frombuffer((folder / f"{index}.out").read_bytes(), np.uint8)
        results.append(values.reshape(preprocess.height, preprocess.width, preprocess.channels))
    return results, json.loads(done.stdout)


def random_cases() -> list[tuple[np.ndarray, int, Preprocess]]:
    random = np.random.default_rng(4)
    cases = []
    for number in range(60):
        height, width = (int(side) for side in random.integers(1, 150, 2))
        step = (1, 3, 4)[number % 3]
        channels = int(random.choice([1, 3]))
        picture = random.integers(0, 256, (height, width, 1 if step == 1 else 3), dtype=np.uint8)
        if number % 4 == 0:  # edges, where filters overshoot
            picture = np.where(picture > 127, np.uint8(255), np.uint8(0))
        preprocess = Preprocess(
            int(random.integers(1, 90)),
            int(random.integers(1, 90)),
            channels=channels,
            resize=None if number % 5 == 0 else int(random.integers(1, 120)),
            interpolation=INTERPOLATIONS[number % len(INTERPOLATIONS)],
            mean=(0.5,) * channels,
            std=(0.5,) * channels,
        )
        cases.append((picture, step, preprocess))
    return cases


def in_two_steps(picture: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """Fit with Pillow, the rows first whatever the shape."""
    picture = with_channels(picture, preprocess.channels)
    height, width = resized_sides(picture.shape[0], picture.shape[1], preprocess)
    for sides in ((picture.shape[0], width), (height, width)):
        picture = resize(picture, sides, preprocess.interpolation)
    top, left = round((height - preprocess.height) / 2), round((width - preprocess.width) / 2)
    return picture[top : top + preprocess.height, left : left + preprocess.width]


def test_pictures_are_fitted_as_pillow_does_it(tmp_path: Path) -> None:
    cases = random_cases()
    assert {case[2].interpolation for case in cases} == set(INTERPOLATIONS)
    results, _ = fitted(tmp_path, cases)
    for (picture, _, preprocess), result in zip(cases, results, strict=True):
        np.testing.assert_array_equal(
            result, in_two_steps(picture, preprocess), err_msg=f"{picture.shape} {preprocess}"
        )
        if preprocess.interpolation in {
            "nearest",
            "bilinear",
        }:  # the others overshoot, and are clipped at another moment
            assert np.abs(result.astype(int) - fit(picture, preprocess)).max() <= 1


def test_photographs_are_fitted_as_the_package_does_it(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    cases = [
        (random.integers(0, 256, (*sides, 3), dtype=np.uint8), 4, Preprocess(224, 224, resize=256, interpolation=each))
        for sides in ((480, 640), (400, 300))
        for each in INTERPOLATIONS
    ]
    results, _ = fitted(tmp_path, cases)
    for (picture, _, preprocess), result in zip(cases, results, strict=True):
        np.testing.assert_array_equal(result, fit(picture, preprocess))


def test_pictures_that_would_swell_are_fitted_in_part(tmp_path: Path) -> None:
    strip = np.random.default_rng(1).integers(0, 256, (2, 3000, 3), dtype=np.uint8)
    cases = [(strip, 3, Preprocess(224, 224, resize=256, interpolation=each)) for each in INTERPOLATIONS]
    results, _ = fitted(tmp_path, cases)
    for (picture, _, preprocess), result in zip(cases, results, strict=True):
        np.testing.assert_array_equal(result, fit(picture, preprocess))


def test_what_the_network_sees_is_told_in_the_pictures_own_pixels(tmp_path: Path) -> None:
    picture = np.zeros((300, 400, 3), np.uint8)
    cases = [(picture, 3, Preprocess(224, 224, resize=256)), (picture, 3, Preprocess(96, 96, resize=None))]
    _, (cropped, stretched) = fitted(tmp_path, cases)
    side = 224 * 300 / 256
    assert cropped["height"] == pytest.approx(side)
    assert cropped["width"] == pytest.approx(side, rel=1e-2)
    assert cropped["left"] == pytest.approx((400 - side) / 2, abs=1)
    assert stretched == {"left": 0, "top": 0, "width": 400, "height": 300}
