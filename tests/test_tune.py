"""The search for tiles."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from mobilenets.arch import ARCHITECTURES, plan
from mobilenets.engine.choices import (
    SHIPPED,
    Choice,
    choice,
    choice_from_json,
    chosen,
    kind,
    read_timed,
    shape,
    write_timed,
)
from mobilenets.engine.kernels import Convolution, Fused, Linear, Pointwise, Tile
from mobilenets.engine.lowering import lower
from mobilenets.engine.schedules import Machine
from mobilenets.engine.tuning import near, other, random_layers
from mobilenets.errors import InputError
from mobilenets.tune import tune

WIDE = Machine(16, 32)


def test_a_search_is_kept_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("halide", reason="the extra `engine` is not installed")
    monkeypatch.setenv("MOBILENETS_CACHE", str(tmp_path))
    out = tmp_path / "tiles.json"
    first = tune("mobilenet_v1", resolution=8, width=0.1, rounds=2, out=out)
    assert set(read_timed(out)) >= {row.name for row in first.kernels}
    assert all(row.after_us <= row.before_us for row in first.kernels)
    assert str(out) in str(first)
    assert json.loads(json.dumps(first.to_json()))["rounds"] == 2
    kept = {name: tiles for name, (tiles, _) in read_timed(out).items()}
    tune("mobilenet_v1", resolution=8, width=0.1, rounds=1, out=out)
    assert {name: tiles for name, (tiles, _) in read_timed(out).items()} == kept


def test_rounds_must_be_positive() -> None:
    with pytest.raises(InputError, match="--rounds"):
        tune("mobilenet_v1", rounds=0)


def test_a_damaged_table_is_no_table(tmp_path: Path) -> None:
    path = tmp_path / "tiles.json"
    for text in ("", "[]", '{"a": 1}', '{"a": [1, 2]}', "{"):
        path.write_text(text)
        assert read_timed(path) == {}
    assert read_timed(tmp_path / "none.json") == {}


def test_tables_come_back(tmp_path: Path) -> None:
    held = {"a": (Choice(Tile(48, 7), None, 7, 2), 12.5), "b": (Choice(last=Tile(16, 1)), 3.0)}
    assert read_timed(write_timed(tmp_path / "tiles.json", held)) == held


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_lite0"])
def test_other_tiles_compute_the_same_shape(name: str) -> None:
    layout = plan(ARCHITECTURES[name], resolution=96)
    chance = random.Random(1)
    for call in lower(layout, random_layers(layout), WIDE).calls:
        kernel: Any = call.kernel
        tiled = isinstance(kernel, Fused | Convolution | Linear | Pointwise)
        if tiled:
            assert chosen(kernel, choice(kernel)) == kernel
            assert shape(chosen(kernel, other(kernel, WIDE, chance))) == shape(kernel)


def test_near_tiles_fit_the_registers() -> None:
    tiles = near(96, 14, WIDE)
    assert Tile(48, 7) in tiles
    assert all(tile.block // 16 * (tile.pixels + 1) < 32 for tile in tiles)


def test_what_comes_with_the_package_can_be_read() -> None:
    tables = json.loads(SHIPPED.read_text(encoding="utf-8"))
    assert set(tables) <= {
        kind(Machine(lanes, registers)) for lanes, registers in ((16, 32), (8, 16), (4, 16), (4, 32))
    }
    for table in tables.values():
        assert all(choice_from_json(numbers).to_json() == numbers for numbers in table.values())
