from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mobilenets.errors import InputError
from mobilenets.train.request import Request, merged

STORED = Request("pets", epochs=7, seed=3, resolution=(96, 128), freeze=True, recipe="simple", threads=2)
OUT = Path("runs/pets")


def test_survives_json() -> None:
    assert Request.from_json(json.loads(json.dumps(STORED.to_json()))) == STORED


def test_the_command_asks_for_the_same() -> None:
    request = replace(STORED, data="my pets", learning_rate=0.05)
    assert request.command == (
        "mobilenets train 'my pets' --resolution 96x128 --recipe simple --epochs 7 --learning-rate 0.05 --freeze "
        "--seed 3 --threads 2"
    )


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("/home/ada/my pets", "'my pets'"),
        ("~/pets/", "pets"),
        ("../../ada/pets.csv", "pets.csv"),
        ("digits", "digits"),
        (".", "."),
        ("/", "/"),
    ],
)
def test_folders_stay_at_home(given: str, kept: str) -> None:
    assert Request(given).without_folders().command == f"mobilenets train {kept}"


def test_every_flag_that_takes_a_path_loses_its_folders() -> None:
    home = Request("/home/a/x", model="/home/b/x", weights="/home/c/x", recipe="/home/d/x", root="/home/e/x")
    assert "/" not in home.without_folders().command
    assert home.command.count("/home/") == 5


def test_flags_left_out_are_taken_from_the_run() -> None:
    assert merged(Request("pets"), STORED, OUT) == STORED


def test_flags_repeated_agree() -> None:
    assert merged(STORED, STORED, OUT) == STORED


def test_workers_may_change() -> None:
    assert merged(Request("pets", workers=3), STORED, OUT).workers == 3


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Request("pets", epochs=9), r"^runs/pets: the run there has --epochs 7, not 9: leave --epochs out"),
        (Request("pets", width=0.5), r"--width at its default, not 0.5"),
        (Request("cats"), r"has DATA pets, not cats: give pets"),
        (Request("pets", bf16="on"), r"--bf16 auto, not on"),
    ],
)
def test_flags_that_differ_are_named(asked: Request, message: str) -> None:
    with pytest.raises(InputError, match=message):
        merged(asked, STORED, OUT)
