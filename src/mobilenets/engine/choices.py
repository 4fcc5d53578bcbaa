"""Tiles that were measured: what a table says of a shape goes before the rules of `schedules`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TypeVar

from mobilenets.engine.int8_kernels import MOVED, NOTHING, TABLED, Int8Dense, Int8Fused, Int8Layer
from mobilenets.engine.kernels import Convolution, Dense, Fused, Linear, Pointwise, Tile, Window
from mobilenets.engine.schedules import Machine
from mobilenets.files import cache_folder, write_atomically
from mobilenets.machine import describe_machine

AnyTiled = Fused | Convolution | Linear | Pointwise | Int8Fused | Int8Dense
"""The kernels that have tiles to choose."""

Tiled = TypeVar("Tiled", Fused, Convolution, Linear, Pointwise, Int8Fused, Int8Dense)


@dataclass(frozen=True, slots=True)
class Choice:
    """The tiles of one kernel: of its first and last convolution, pixels of its depthwise one, and rows at a time.

    A kernel with one convolution has it in `last`.
    """

    first: Tile | None = None
    last: Tile | None = None
    pixels: int = 1
    rows: int = 1

    def to_json(self) -> list[int]:
        """Return six numbers: the first block and pixels, the last ones (0 where there is none), pixels, rows."""
        first, last = (tile or Tile(0, 0) for tile in (self.first, self.last))
        return [first.block, first.pixels, last.block, last.pixels, self.pixels, self.rows]


Timed = tuple[Choice, float]
"""Tiles, and the microseconds that the kernel took."""


def choice_from_json(numbers: list[int]) -> Choice:
    """Return the choice that six numbers stand for."""
    first, last = (Tile(*numbers[at : at + 2]) if numbers[at] else None for at in (0, 2))
    return Choice(first, last, numbers[4], numbers[5])


def choice(kernel: AnyTiled) -> Choice:
    """Return the tiles that a kernel has."""
    if isinstance(kernel, Int8Fused):
        pixels = kernel.packed or kernel.depth_pixels
        return Choice(_tile(kernel.first, kernel.lanes), _tile(kernel.last, kernel.lanes), pixels, kernel.rows)
    if isinstance(kernel, Int8Dense):
        return Choice(last=_tile(kernel.layer, kernel.lanes))
    if isinstance(kernel, Fused):
        first = None if kernel.first is None else kernel.first.tile
        last = None if kernel.last is None else kernel.last.tile
        return Choice(first, last, kernel.depthwise.tile.pixels, kernel.rows)
    return Choice(last=kernel.dense.tile)


def chosen(kernel: Tiled, wanted: Choice | None) -> Tiled:
    """Return a kernel with other tiles; None leaves it as it is."""
    if wanted is None:
        return kernel
    if isinstance(kernel, Fused):
        first, last, block = kernel.first, kernel.last, kernel.depthwise.tile.block
        if first is not None and wanted.first is not None:
            first, block = replace(first, tile=wanted.first), wanted.first.block
        if last is not None and wanted.last is not None:
            last = replace(last, tile=wanted.last)
        depthwise = replace(kernel.depthwise, tile=Tile(block, wanted.pixels))
        return replace(kernel, first=first, depthwise=depthwise, last=last, rows=wanted.rows)
    if isinstance(kernel, Int8Fused):
        front, back = (
            _in_tiles(*each, kernel.lanes) for each in ((kernel.first, wanted.first), (kernel.last, wanted.last))
        )
        packed, pixels = (wanted.pixels, kernel.depth_pixels) if kernel.packed else (0, wanted.pixels)
        return replace(kernel, first=front, last=back, packed=packed, depth_pixels=pixels, rows=wanted.rows)
    assert wanted.last is not None
    if isinstance(kernel, Int8Dense):
        layer = _in_tiles(kernel.layer, wanted.last, kernel.lanes)
        assert layer is not None
        return replace(kernel, layer=layer)
    return replace(kernel, dense=replace(kernel.dense, tile=wanted.last))


def _tile(layer: Int8Layer | None, lanes: int) -> Tile | None:
    return None if layer is None else Tile(layer.tile_vectors * lanes, layer.tile_pixels)


def _in_tiles(layer: Int8Layer | None, tile: Tile | None, lanes: int) -> Int8Layer | None:
    if layer is None or tile is None:
        return layer
    return replace(layer, tile_vectors=tile.block // lanes, tile_pixels=tile.pixels)


def shape(kernel: AnyTiled) -> str:
    """Return what a kernel computes, without its tiles, as a line to look it up by.

    >>> from mobilenets.engine.kernels import Tile
    >>> shape(Pointwise(49, 320, Dense(1280, Window(), "relu6", Tile(32, 7)), mean=True))
    'pointwise 49 320 > 1280 relu6 mean'
    """
    match kernel:
        case Fused():
            window = kernel.depthwise.window
            middle = f"dw{window.kernel}/{window.stride} {kernel.depthwise.activation}"
            parts = [f"fused {kernel.height}x{kernel.width}", str(kernel.channels), middle]
            if kernel.first is not None:
                parts.insert(2, f"> {_dense(kernel.first)}")
            if kernel.last is not None:
                parts.append(f"> {_dense(kernel.last)}")
            flags: Mapping[str, bool] = {"add": kernel.add, "planar": kernel.planar}
        case Convolution():
            parts = [f"convolution {kernel.height}x{kernel.width}", f"{kernel.channels} > {_dense(kernel.dense)}"]
            flags = {"planar": kernel.planar}
        case Linear():
            parts, flags = [f"linear {kernel.channels} > {_dense(kernel.dense)}"], {}
        case Pointwise():
            parts = [f"pointwise {kernel.pixels} {kernel.channels} > {_dense(kernel.dense)}"]
            flags = {"add": kernel.add, "gate": kernel.gate, "mean": kernel.mean}
        case Int8Fused():
            window = kernel.window
            parts = [f"int8 fused {kernel.height}x{kernel.width}", f"dw{window.kernel}/{window.stride} {kernel.inner}"]
            parts[0] += "" if kernel.first is None else f" {_int8(kernel.first)}"
            parts[1] += _AFTER[kernel.depth_after]
            parts += [] if kernel.last is None else [_int8(kernel.last)]
            flags = {"add": kernel.add is not None, "packed": kernel.packed > 0}
        case Int8Dense():
            parts = [f"int8 dense {kernel.width}", _int8(kernel.layer)]
            flags = {"add": kernel.add is not None, "mean": kernel.mean is not None, "flat": kernel.flat}
    return " ".join([*parts, *(name for name, there in flags.items() if there)])


def _dense(dense: Dense) -> str:
    window = "" if dense.window == Window() else f" {dense.window.kernel}/{dense.window.stride}"
    return f"{dense.channels}{window} {dense.activation}"


_AFTER = {NOTHING: "", MOVED: " moved", TABLED: " table"}


def _int8(layer: Int8Layer) -> str:
    """Return groups of four terms, the window where there is one, and vectors of channels."""
    window = "" if layer.rows == layer.stride == 1 else f" {layer.rows}/{layer.stride}"
    return f"{layer.terms} > {layer.vectors}{window}{_AFTER[layer.after]}"


SHIPPED = Path(__file__).with_name("tiles.json")
"""Tiles tuned by whoever made this package: for each kind of machine, six numbers for each shape."""


def kind(machine: Machine) -> str:
    """Return what a table calls processors with these vectors."""
    return f"{machine.lanes} lanes, {machine.registers} registers"


def own_table(machine: Machine, folder: Path | None = None) -> Path:
    """Return the file with tiles that were tuned on this processor; it need not exist."""
    folder = cache_folder() / "engine" if folder is None else folder
    described = f"{describe_machine()['processor']} {kind(machine)}"
    return folder / f"tiles-{hashlib.sha256(described.encode()).hexdigest()[:12]}.json"


@cache
def choices(machine: Machine) -> Mapping[str, Choice]:
    """Return the tiles by shape: those tuned on this processor before those that came with the package."""
    return {**shipped(machine), **{name: tiles for name, (tiles, _) in read_timed(own_table(machine)).items()}}


def shipped(machine: Machine) -> dict[str, Choice]:
    """Return the tiles by shape that came with the package."""
    table = json.loads(SHIPPED.read_text(encoding="utf-8")).get(kind(machine), {})
    return {name: choice_from_json(numbers) for name, numbers in table.items()}


def read_timed(path: Path) -> dict[str, Timed]:
    """Return a table of tiles and times; nothing where there is no file, or one of another program."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return {name: (choice_from_json(numbers[:6]), float(numbers[6])) for name, numbers in held.items()}
    except (OSError, ValueError, TypeError, IndexError, AttributeError):
        return {}


def write_timed(path: Path, table: Mapping[str, Timed]) -> Path:
    """Write a table that :func:`read_timed` reads."""
    held = {name: [*tiles.to_json(), round(time, 1)] for name, (tiles, time) in sorted(table.items())}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(numbers)}" for name, numbers in held.items())
    return write_atomically(path, "{\n" + lines + "\n}\n")
