from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilenets.errors import InputError
from mobilenets.image import Augmentation
from mobilenets.recipe import RECIPES, Recipe, fitted, recipe_named, resized, with_batch_size

NAMES = sorted(RECIPES)
PLAIN = Recipe("plain", 10, 64, "sgd", 0.1)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_survives_json(name: str) -> None:
    recipe = RECIPES[name]
    assert recipe.name == name
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, r"--epochs must be from 1 to 100000, not 0"),
        ({"batch_size": 1.5}, r"--batch-size must be a whole number"),
        ({"learning_rate": float("nan")}, r"--learning-rate must be from"),
        ({"optimizer": "lion"}, r"optimizer 'lion' is not one of sgd, adam, adamw, rmsprop"),
        ({"schedule": "step"}, r"schedule 'step' is not one of constant, cosine, exponential"),
        ({"optimizer": "adam", "nesterov": True}, r"nesterov needs optimizer sgd"),
        ({"warmup_epochs": 10}, r"--epochs 10 must be more than the recipe's 10 epochs of warm-up"),
        ({"rate_decay": 0.9}, r"rate_decay is for schedule exponential, not cosine"),
        ({"ema": 1.0}, r"ema must be from 0 to 1"),
    ],
)
def test_values_that_contradict_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(PLAIN, **changes)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"speed": 3}, "unknown field 'speed'"),
        ({"epochs": "ten"}, "epochs cannot be 'ten'"),
        ({"epochs": True}, "epochs cannot be True"),
        ({"nesterov": 1}, "nesterov cannot be 1"),
        ({"augmentation": []}, "augmentation must be a JSON object"),
        ({"augmentation": {"sharpen": 1}}, "unknown fields"),
    ],
)
def test_a_strangers_json_is_checked(document: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Recipe.from_json({**PLAIN.to_json(), **document})


def test_missing_fields_are_named() -> None:
    with pytest.raises(InputError, match="batch_size"):
        Recipe.from_json({"name": "x", "epochs": 1})


def test_by_name_and_from_files(tmp_path: Path) -> None:
    assert recipe_named("simple") is RECIPES["simple"]
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(PLAIN.to_json()))
    assert recipe_named(str(path)) == PLAIN
    path.write_text("{")
    with pytest.raises(InputError, match=r"mine.json: not JSON"):
        recipe_named(str(path))
    path.write_text("[1]")
    with pytest.raises(InputError, match=r"a recipe is a JSON object"):
        recipe_named(str(path))
    with pytest.raises(InputError, match=r"--recipe simpel: there are finetune, scratch, v2-paper, simple"):
        recipe_named("simpel")


@given(name=st.sampled_from(NAMES), images=st.integers(1, 2_000_000), side=st.integers(8, 512))
def test_a_recipe_fits_any_number_of_pictures(name: str, images: int, side: int) -> None:
    made = fitted(RECIPES[name], images=images, side=side, mirrorable=True)
    assert 1 <= made.batch_size <= min(images, RECIPES[name].batch_size)
    assert made.epochs >= RECIPES[name].epochs
    assert made.learning_rate <= RECIPES[name].learning_rate
    assert (made.augmentation.kind == "photo") == (side >= 96 and RECIPES[name].augmentation.kind == "photo")


@pytest.mark.parametrize("name", NAMES)
def test_what_must_not_be_mirrored_is_not(name: str) -> None:
    assert not fitted(RECIPES[name], images=1000, side=28, mirrorable=False).augmentation.flip


def test_large_data_changes_nothing() -> None:
    assert resized(RECIPES["scratch"], images=1_000_000) == RECIPES["scratch"]


def test_small_data_gets_smaller_batches_first_then_more_epochs() -> None:
    recipe = replace(PLAIN, batch_size=128, least_steps=1000)
    medium, small = resized(recipe, images=4000), resized(recipe, images=320)
    assert (medium.batch_size, medium.epochs) == (32, 10)
    assert (small.batch_size, small.epochs) == (32, 100)


def test_freezing_trains_a_linear_classifier_plainly() -> None:
    frozen = fitted(RECIPES["finetune"], images=1000, side=224, mirrorable=True, freeze=True)
    assert frozen.augmentation == Augmentation(flip=True)
    assert (frozen.optimizer, frozen.ema) == ("adamw", 0.0)


def test_the_learning_rate_follows_the_batch() -> None:
    assert with_batch_size(PLAIN, 16).learning_rate == pytest.approx(0.025)
    assert with_batch_size(replace(PLAIN, optimizer="adam"), 16).learning_rate == pytest.approx(0.05)
