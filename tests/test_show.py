"""`show`: the paper's table, in print and in JSON."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilenets.arch import CLASSIFIERS, cost, plan
from mobilenets.checkpoint import Card, Checkpoint, save, tensor_shapes
from mobilenets.cli import main
from mobilenets.errors import CheckpointError, InputError
from mobilenets.image import Preprocess
from mobilenets.show import ShowResult, show

NAMES = sorted(CLASSIFIERS)


def cells(result: ShowResult) -> list[list[str]]:
    """Return the printed table, without its header."""
    table = str(result).split("\n\n")[1].splitlines()
    return [re.split(r" {2,}", line.strip()) for line in table[2:]]


def number(text: str) -> int:
    return int(text.replace(",", ""))


def total(result: ShowResult, name: str) -> int:
    found = re.search(rf"^{re.escape(name)} +([\d,]+)", str(result), re.MULTILINE)
    assert found is not None
    return number(found[1])


def test_v2_reads_as_in_the_paper() -> None:
    rows = cells(show("mobilenet_v2"))
    assert rows[0] == ["1", "224x224x3", "conv 3x3", "32", "2", "112x112x32", "928", "10,838,016", "1,605,632"]
    assert [row[3:7] for row in rows[1:8]] == [
        ["1", "16", "1", "1"],
        ["6", "24", "2", "2"],
        ["6", "32", "3", "2"],
        ["6", "64", "4", "2"],
        ["6", "96", "3", "1"],
        ["6", "160", "3", "2"],
        ["6", "320", "1", "1"],
    ]
    assert "arXiv:1801.04381 Table 2" in str(show("mobilenet_v2")).splitlines()[0]


def test_v3_reads_as_in_the_paper() -> None:
    rows = cells(show("mobilenet_v3_small"))
    assert [" ".join(row[2:8]) for row in rows[1:5]] == [
        "bneck 3x3 16 16 SE RE 2",
        "bneck 3x3 72 24 - RE 2",
        "bneck 3x3 88 24 - RE 1",
        "bneck 5x5 96 40 SE HS 2",
    ]
    assert rows[-2][2:5] == ["dense", "1024", "HS"]


@pytest.mark.parametrize("name", NAMES)
def test_printed_rows_add_up(name: str) -> None:
    result = show(name, width=0.5, resolution=(96, 128))
    rows = cells(result)
    assert len(rows) == len(CLASSIFIERS[name].rows)
    for column, what in ((-3, "parameters"), (-2, "multiply-adds"), (-1, "activation bytes")):
        assert sum(number(row[column]) for row in rows) == total(result, what)
    assert total(result, "FLOPs") == 2 * total(result, "multiply-adds")
    assert total(result, "peak memory") == result.cost.peak_activation_bytes
    assert f"at {result.cost.peak_op} (row " in str(result)


@given(
    st.sampled_from(NAMES),
    st.floats(0.1, 2),
    st.tuples(st.integers(1, 200), st.integers(1, 200)),
    st.integers(1, 50),
    st.integers(1, 8),
)
def test_json_is_the_plan(name: str, width: float, size: tuple[int, int], classes: int, in_channels: int) -> None:
    result = show(name, width=width, resolution=size, classes=classes, in_channels=in_channels)
    data: dict[str, Any] = json.loads(json.dumps(result.to_json(), allow_nan=False))
    layout = plan(CLASSIFIERS[name], width=width, resolution=size, classes=classes, in_channels=in_channels)
    spent = cost(layout)
    assert data["parameters"] == spent.parameters
    assert data["multiply_adds"] == spent.multiply_adds
    assert data["flops"] == 2 * spent.multiply_adds
    assert (data["peak_activation_bytes"], data["peak_op"]) == (spent.peak_activation_bytes, spent.peak_op)
    assert data["resolution"] == [*size]
    assert (data["model"], data["width"], data["classes"], data["in_channels"]) == (name, width, classes, in_channels)
    assert [op["name"] for op in data["ops"]] == [op.name for op in layout.ops]
    for key in ("parameters", "multiply_adds", "activation_bytes"):
        assert sum(op[key] for op in data["ops"]) == sum(row[key] for row in data["rows"])
    assert data["ops"][0]["in_shape"] == [in_channels, *size]
    assert data["ops"][-1]["out_shape"] == [classes, 1, 1]


def test_operation_in_json() -> None:
    ops = {op["name"]: op for op in show("mobilenet_v2").to_json()["ops"]}
    assert ops["block_2_depthwise"] == {
        "name": "block_2_depthwise",
        "kind": "conv",
        "row": 2,
        "sources": ["block_2_expand"],
        "in_shape": [96, 112, 112],
        "out_shape": [96, 56, 56],
        "kernel": 3,
        "stride": 2,
        "padding": [1, 1, 1, 1],
        "groups": 96,
        "activation": "relu6",
        "parameters": 9 * 96 + 2 * 96,
        "multiply_adds": 9 * 96 * 56 * 56,
        "activation_bytes": 4 * 96 * 56 * 56,
    }


def test_notes() -> None:
    assert show("mobilenet_v2").notes == ()
    text = str(show("mobilenet_v2", resolution=32, classes=10, in_channels=1))
    assert "note: classes: 10, where the table has 1,000" in text
    assert "note: input channels: 1, where the table has 3" in text
    assert "note: small-image strides: stride 1 in rows 1 and 3 of the table" in text
    assert [row[-5] for row in cells(show("mobilenet_v2", resolution=32))[:3]] == ["1", "1", "1"], "the strides used"
    assert "channels are scaled by 0.55" in str(show("efficientnet_lite2", width=0.5))


def test_int8_is_a_quarter() -> None:
    wide, narrow = show("mobilenet_v3_large"), show("mobilenet_v3_large", precision="int8")
    assert wide.to_json()["peak_activation_bytes"] == 4 * narrow.to_json()["peak_activation_bytes"]
    assert [row.activation_bytes for row in wide.rows] == [4 * row.activation_bytes for row in narrow.rows]
    assert "int8 activations" in str(narrow)
    assert wide.to_json()["parameters"] == narrow.to_json()["parameters"]


def test_ablation() -> None:
    result = show("mobilenet_v2:expansion=3,shortcut=none")
    assert result.model == result.plan.arch.name
    assert [row[3] for row in cells(result)[1:4]] == ["1", "3", "3"]
    assert not [op for op in result.to_json()["ops"] if op["kind"] == "add"]


# -- A checkpoint --


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    card = Card(
        arch=CLASSIFIERS["mobilenet_v2_mnist"],
        width=0.25,
        resolution=(20, 24),
        labels=("cat", "dog", "owl"),
        preprocess=Preprocess(20, 24, channels=2, resize=None, mean=(0.5, 0.5), std=(0.5, 0.5)),
        in_channels=2,
    )
    tensors = {name: np.zeros(shape, np.float32) for name, shape in tensor_shapes(card.plan).items()}
    return save(Checkpoint(card, tensors), tmp_path / "animals.safetensors")


def test_checkpoint_is_shown_as_it_is(checkpoint: Path) -> None:
    data = show(str(checkpoint)).to_json()
    assert (data["width"], data["resolution"], data["classes"], data["in_channels"]) == (0.25, [20, 24], 3, 2)
    assert data["precision"] == "float32"
    assert f"{checkpoint}: mobilenet_v2_mnist, " in str(show(str(checkpoint)))


def test_checkpoint_can_be_varied(checkpoint: Path) -> None:
    data = show(str(checkpoint), width=0.5, resolution=64, precision="int8").to_json()
    assert (data["width"], data["resolution"], data["classes"], data["precision"]) == (0.5, [64, 64], 3, "int8")


def test_checkpoint_under_any_name(checkpoint: Path) -> None:
    renamed = checkpoint.rename(checkpoint.with_name("animals"))
    assert show(str(renamed)).plan.classes == 3


def test_checkpoint_that_is_none(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match=re.escape(f"{tmp_path / 'gone.safetensors'}") + ".*No such file"):
        show(str(tmp_path / "gone.safetensors"))
    other = tmp_path / "network.pb"
    other.write_bytes(b"\x08\x07")
    with pytest.raises(CheckpointError, match=re.escape(f"{other}: not a checkpoint")):
        show(str(other))
    data = checkpoint.read_bytes()
    checkpoint.write_bytes(data.replace(rb"\"width\": 0.25", rb"\"width\": 9e99"))
    with pytest.raises(CheckpointError, match=re.escape(f"{checkpoint}: width must be from 0.01 to 16")):
        show(str(checkpoint))


def test_what_a_stranger_wrote_cannot_move_the_cursor() -> None:
    arch = replace(CLASSIFIERS["mobilenet_v1"], name="\x1b[2Jv1", paper="one\ntwo")
    text = str(ShowResult("\x1b[31mfile", plan(arch), "float32", ("a\rb",)))
    assert "\x1b" not in text
    assert "\r" not in text
    assert "one\\ntwo" in text


def test_published_weights_are_shown_as_they_were_trained() -> None:
    result = show("mobilenet_v3_large_075.tf_in1k")
    assert result.cost.parameters == 3_993_528
    assert result.plan.op("stem").padding == (0, 1, 0, 1), "TensorFlow's"
    assert "note: weights by timm tf_mobilenetv3_large_075.in1k" in str(result)
    assert show("mobilenet_v3_large_075.tf_in1k", resolution=96).plan.width == 0.75


# -- The command --


def test_unknown_model() -> None:
    with pytest.raises(InputError, match="no architecture is called 'mobilenet_v4': did you mean mobilenet_v"):
        show("mobilenet_v4")


@pytest.mark.parametrize("values", [{"width": 0}, {"classes": 0}, {"in_channels": -1}, {"resolution": (0, 5)}])
def test_refused_value(values: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="must be from"):
        show("mobilenet_v2", **values)


def test_command_is_the_function(capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        "--width",
        "0.75",
        "--resolution",
        "192x256",
        "--classes",
        "7",
        "--in-channels",
        "1",
        "--precision",
        "int8",
    ]
    result = show("mobilenet_v1", width=0.75, resolution=(192, 256), classes=7, in_channels=1, precision="int8")
    assert main(["show", "mobilenet_v1", *flags]) == 0
    assert capsys.readouterr().out == f"{result}\n"
    assert main(["show", "mobilenet_v1", *flags, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == result.to_json()
    assert main(["show", "mobilenet_v1", "--resolution", "0"]) == 1
    assert capsys.readouterr() == ("", "mobilenets: resolution must be from 1 to 16,384, not 0\n")


def test_nothing_heavy_is_imported() -> None:
    code = "import sys; from mobilenets import show; str(show('mobilenet_v2')); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert {"torch", "torchvision", "numpy", "PIL", "safetensors"}.isdisjoint(done.stdout.split())
