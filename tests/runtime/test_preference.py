"""Which runtime computes where none is named: the engine, if it is there in milliseconds or pays."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from mobilenets import cli, notices
from mobilenets import runtime as runtimes
from mobilenets.arch.cost import cost
from mobilenets.checkpoint import Card, Checkpoint, save
from mobilenets.engine import prepared
from mobilenets.engine.prepared import compiled, note_file
from mobilenets.engine.target import EngineError, Machine, Target
from mobilenets.evaluate import evaluate
from mobilenets.predict import predict
from mobilenets.runtime import choose, preference
from mobilenets.runtime.preference import ENDLESS, PAYS
from mobilenets.serve.model import ServedModel

FAST = Target("a processor", "x86_64-linux-gnu", Machine(16, 32), ("avx512f", "avx512vnni"))
Networks = Callable[..., Checkpoint]


@pytest.fixture(autouse=True)
def _on_a_fast_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is installed, nothing is compiled, and the processor is one that the engine is the fastest on."""
    monkeypatch.setenv("MOBILENETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(preference.SETTING, raising=False)
    monkeypatch.setattr("mobilenets.engine.target.host", lambda: FAST)
    monkeypatch.setattr("mobilenets.runtime.preference.shutil.which", lambda name: f"/usr/bin/{name}")
    engine = replace(runtimes.RUNTIMES["engine"], package="numpy")
    monkeypatch.setattr(runtimes, "RUNTIMES", {**runtimes.RUNTIMES, "engine": engine})
    monkeypatch.setattr(notices, "_told", set())
    notices.taken()


def compile_for(checkpoint: Checkpoint) -> None:
    """Leave in the cache what compiling leaves there."""
    note = note_file(checkpoint.card, checkpoint.card.resolution, FAST)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text("library.so", encoding="ascii")
    (prepared.engine_folder() / "library.so").touch()


def chosen(checkpoint: Checkpoint, pictures: int | None = 1) -> str:
    return choose(None, checkpoint, precision=checkpoint.card.precision, pictures=pictures)


def first(precision: str) -> str:
    """Return what was taken before there was an engine."""
    return choose(precision=precision)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_one_picture_waits_for_no_compiler(
    precision: str, random_network: Networks, random_int8_network: Networks
) -> None:
    checkpoint = (random_int8_network if precision == "int8" else random_network)("mobilenet_v2")
    assert chosen(checkpoint) == first(precision) != "engine"
    (line,) = notices.taken()
    assert "--runtime engine would be faster" in line
    compile_for(checkpoint)
    assert chosen(checkpoint) == "engine"
    assert notices.taken() == ()


def test_what_is_compiled_is_of_one_table_and_size(random_network: Networks) -> None:
    checkpoint = random_network("mobilenet_v2")
    compile_for(checkpoint)
    other = replace(checkpoint, tensors={name: 2 * value for name, value in checkpoint.tensors.items()})
    assert chosen(other) == "engine"
    for card in (
        replace(checkpoint.card, resolution=(64, 48)),
        replace(checkpoint.card, width=0.5),
        replace(checkpoint.card, precision="int8"),
        replace(checkpoint.card, labels=("a", "b")),
        random_network("mobilenet_v1").card,
    ):
        assert not compiled(card, FAST)
    assert not compiled(checkpoint.card, replace(FAST, name="another processor"))
    (prepared.engine_folder() / "library.so").unlink()
    assert not compiled(checkpoint.card, FAST)


def test_much_work_pays(random_network: Networks) -> None:
    checkpoint = random_network("mobilenet_v2")
    enough = -(-PAYS // cost(checkpoint.card.plan).multiply_adds)
    assert chosen(checkpoint, enough - 1) != "engine"
    assert chosen(checkpoint, enough) == "engine"
    assert chosen(checkpoint, ENDLESS) == "engine"


def test_who_does_not_say_how_much_gets_what_takes_any_size_at_once(random_network: Networks) -> None:
    checkpoint = random_network("mobilenet_v2")
    compile_for(checkpoint)
    assert chosen(checkpoint, None) == first("float32")
    assert choose("onnx", checkpoint, pictures=ENDLESS) == "onnx"
    assert choose(precision="float32", pictures=ENDLESS) == first("float32")


def test_where_it_cannot_be_compiled_it_is_neither_taken_nor_praised(
    random_network: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = random_network("mobilenet_v2")
    absent = replace(runtimes.RUNTIMES["engine"], package="package_that_is_not_installed")
    with monkeypatch.context() as without:
        without.setattr(runtimes, "RUNTIMES", {**runtimes.RUNTIMES, "engine": absent})
        assert chosen(checkpoint, ENDLESS) == first("float32")
    with monkeypatch.context() as without:
        without.setattr("mobilenets.runtime.preference.find_spec", lambda _: None)
        without.setattr("mobilenets.runtime.preference.shutil.which", lambda _: None)
        assert chosen(checkpoint, ENDLESS) == first("float32")
    for features in (("avx2",), ("avx512f",)):
        monkeypatch.setattr("mobilenets.engine.target.host", lambda features=features: replace(FAST, features=features))
        for card in (checkpoint.card, replace(checkpoint.card, precision="int8")):
            best = preference.engine_is_best(card, ENDLESS)
            assert best is (features == ("avx512f",) and card.precision == "float32")

    def unknown() -> Target:
        raise EngineError("no such processor")

    monkeypatch.setattr("mobilenets.engine.target.host", unknown)
    assert chosen(checkpoint, ENDLESS) == first("float32")
    assert notices.taken() == ()


def test_it_can_be_left_to_who_asks(random_network: Networks, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = random_network("mobilenet_v2")
    compile_for(checkpoint)
    monkeypatch.setenv(preference.SETTING, "asked")
    assert chosen(checkpoint, ENDLESS) == first("float32")


def test_a_precision_that_it_does_not_have(random_network: Networks) -> None:
    card = replace(random_network("mobilenet_v2").card, precision="bf16")
    assert not preference.engine_is_best(card, ENDLESS)


def test_every_command_says_how_much_there_is_to_compute(
    colour_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def note(card: Card, pictures: int) -> bool:
        assert card == colour_checkpoint.card
        asked.append(pictures)
        return False

    monkeypatch.setattr(preference, "engine_is_best", note)
    model = str(save(colour_checkpoint, tmp_path / "m.safetensors"))
    for colour in ("red", "green"):
        (tmp_path / "set" / colour).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (20, 20), colour).save(tmp_path / "set" / colour / f"{number}.png")
    predict(model, str(tmp_path / "set" / "red"))
    assert asked.pop() == 3
    assert evaluate(model, str(tmp_path / "set")).runtime == first("float32")
    assert set(asked) == {6}
    asked.clear()
    evaluate(model, str(tmp_path / "set"), limit=4)
    assert set(asked) == {4}
    asked.clear()
    ServedModel("colours", model, None, 1).close()
    assert set(asked) == {ENDLESS}
    asked.clear()
    evaluate(model, str(tmp_path / "set"), runtime="reference")
    runtimes.load(model, "reference").close()
    runtimes.load(model).close()  # who does not say how many
    assert asked == []


def test_the_command_says_once_what_would_be_faster_and_never_beside_json(
    colour_checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, picture = str(save(colour_checkpoint, tmp_path / "m.safetensors")), str(tmp_path / "red.png")
    Image.new("RGB", (20, 20), "red").save(picture)
    assert cli.main(["predict", model, picture, "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)[0]["predictions"][0]["label"] == "red"
    assert "--runtime" not in said.err
    notices._told.clear()
    told = []
    for _ in range(2):
        assert cli.main(["predict", model, picture]) == 0
        said = capsys.readouterr()
        assert "--runtime" not in said.out
        told.append(said.err.count("--runtime engine"))
    assert told == [1, 0]
