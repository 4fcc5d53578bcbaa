"""The search for tiles."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mobilenets.arch import ARCHITECTURES, plan
from mobilenets.bench.synthetic import quick_int8, random_checkpoint
from mobilenets.engine import tuning
from mobilenets.engine.choices import (
    SHIPPED,
    AnyTiled,
    Choice,
    Timed,
    choice,
    choice_from_json,
    chosen,
    kind,
    read_timed,
    shape,
    shipped,
    write_timed,
)
from mobilenets.engine.folding import folded
from mobilenets.engine.int8_kernels import Int8Dense, Int8Fused
from mobilenets.engine.int8_lowering import lower_int8
from mobilenets.engine.kernels import Tile
from mobilenets.engine.library import Target
from mobilenets.engine.lowering import lower
from mobilenets.engine.schedules import Machine
from mobilenets.engine.tuning import near, other, tiled
from mobilenets.errors import InputError
from mobilenets.tune import tune

WIDE = Machine(16, 32)


@pytest.mark.parametrize("precision", ["float32", pytest.param("int8", marks=pytest.mark.slow)])
def test_a_search_is_kept_and_goes_on(precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("halide", reason="the extra `engine` is not installed")
    monkeypatch.setenv("MOBILENETS_CACHE", str(tmp_path))
    out = tmp_path / "tiles.json"
    write_timed(out, {"of another network": (Choice(last=Tile(16, 1)), 3.0)})
    first = tune("mobilenet_v1", resolution=8, width=0.1, precision=precision, rounds=1, out=out)
    held = read_timed(out)
    assert set(held) == {row.name for row in first.kernels} | {"of another network"}
    assert all(row.after_us <= row.before_us for row in first.kernels)
    assert str(out) in str(first)
    said = json.loads(json.dumps(first.to_json()))
    assert (said["rounds"], said["precision"]) == (1, precision)
    again = tune("mobilenet_v1", resolution=8, width=0.1, precision=precision, rounds=1, out=out)
    assert {row.name for row in again.kernels} == {row.name for row in first.kernels}
    assert set(read_timed(out)) == set(held)


def test_tiles_that_are_no_faster_in_the_network_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, in their round, all look twice as fast as the rules'; together only the first ones are."""
    layout = plan(ARCHITECTURES["mobilenet_v1"], width=0.25, resolution=32)
    layers = folded(random_checkpoint(layout))
    names = [*tiled(lower(layout, layers, WIDE))]
    faster = set(names[:3])
    rounds = 0

    def compared(*_: object) -> dict[str, float]:
        nonlocal rounds
        rounds += 1
        return {name: 0.5 if rounds == 1 or name in faster else 1.02 for name in names}

    monkeypatch.setattr(tuning, "compared", compared)
    monkeypatch.setattr(tuning, "step_times", lambda *_: [dict.fromkeys(names, 8.0)])
    monkeypatch.setattr(tuning, "Program", lambda *_: SimpleNamespace(close=lambda: None))
    seen: list[dict[str, Timed]] = []
    before, best = tuning.search(
        lambda choices: lower(layout, layers, WIDE, choices),
        Target("", "", WIDE),
        rounds=1,
        report=lambda _, found: seen.append(found),
    )
    ruled = tiled(lower(layout, layers, WIDE))
    assert before == dict.fromkeys(names, 8.0)
    assert sum(time == 4.0 for _, time in seen[0].values()) > len(faster)
    assert {name for name, (_, time) in best.items() if time == 4.0} == faster
    assert all(best[name] == (ruled[name], 8.0) for name in names if name not in faster)
    assert any(best[name][0] != ruled[name] for name in faster)


def test_rounds_must_be_positive() -> None:
    with pytest.raises(InputError, match="--rounds"):
        tune("mobilenet_v1", rounds=0)


def test_only_what_the_engine_computes_is_tuned() -> None:
    with pytest.raises(InputError, match="--precision is float32 or int8, not 'bf16'"):
        tune("mobilenet_v1", precision="bf16")


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
    layout = plan(ARCHITECTURES[name], width=0.25, resolution=64)
    checkpoint = random_checkpoint(layout)
    chance = random.Random(1)
    networks = (lower(layout, folded(checkpoint), WIDE), lower_int8(layout, quick_int8(checkpoint), WIDE))
    for call in [call for network in networks for call in network.calls]:
        if isinstance(call.kernel, AnyTiled):
            kernel: Any = call.kernel
            assert chosen(kernel, choice(kernel)) == kernel
            assert shape(chosen(kernel, other(kernel, WIDE, chance))) == shape(kernel)


def test_shapes_tell_what_differs_in_more_than_tiles() -> None:
    """Kernels of one name must be the same but for their tiles."""
    by_name: dict[str, object] = {}
    for name in ("mobilenet_v2", "mobilenet_v3_small", "efficientnet_lite0"):
        layout = plan(ARCHITECTURES[name], width=0.35, resolution=64)
        for call in lower_int8(layout, quick_int8(random_checkpoint(layout)), WIDE).calls:
            if isinstance(call.kernel, Int8Fused | Int8Dense):
                one: Any = by_name.setdefault(shape(call.kernel), call.kernel)
                assert chosen(one, choice(call.kernel)) == call.kernel


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


def test_what_comes_with_the_package_is_of_kernels_that_there_are() -> None:
    layout = plan(ARCHITECTURES["mobilenet_v2"])
    ruled = tiled(lower(layout, folded(random_checkpoint(layout)), WIDE))
    found = shipped(WIDE)
    assert set(found) <= set(ruled)
    assert all(found[name] != ruled[name] for name in found), "what follows from the rules need not be said"
