"""A network laid out for one processor: what is called with what, and the packed weights, kept beside the library.

To make one, weights are folded and packed and the arena is arranged. To read one back takes milliseconds and imports
next to nothing of the engine. A file belongs to one checkpoint (its sha256), picture size, processor and version of
this package; which libraries there are for a table, whatever the weights, is noted beside. Files appear whole, by
renaming; the oldest are deleted where all of them are too many.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mobilenets.engine.target import EngineError, Target
from mobilenets.errors import InputError
from mobilenets.files import cache_folder, write_atomically

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mobilenets.checkpoint import Card, Checkpoint

INPUT = "input"
ALIGN = 128  # bytes: two cache lines, and more than any vector
MOST_BYTES = 512 << 20
"""Of the files with packed weights; those that were not used for longest are deleted beyond it."""
_MAGIC = b"mobilenets 1\n"
_NUMBERS = ("arena_bytes", "scratch_bytes", "picture_bytes")
_HEADER = ("library", "steps", "offsets", "outputs", "channels", *_NUMBERS)


class Value(NamedTuple):
    """A map as a kernel sees it: extents from the innermost on, strides in elements, and the bytes of one."""

    name: str
    extents: tuple[int, ...]
    strides: tuple[int, ...]
    item: int


class Weights(NamedTuple):
    """Packed weights as a kernel sees them: see `Value`; `offset` is of their first byte."""

    offset: int
    extents: tuple[int, ...]
    strides: tuple[int, ...]
    item: int


class Step(NamedTuple):
    """A call: the function, what it reads, what it writes, and the dimension that threads share.

    `axis` is the dimension's place, its extent, and the unit in which it may be cut.
    """

    symbol: str
    arguments: tuple[Value | Weights, ...]
    out: Value
    axis: tuple[int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """All that a library has to be told to compute a network; `weights` are one block of bytes.

    Args:
        library: the file's name.
        steps: in order.
        offsets: of every value in the arena that is neither picture nor output.
        arena_bytes: of them all.
        scratch_bytes: what each thread must have beside.
        outputs: as they lie in memory.
        channels: how many channels of each output there are, less those that only fill up vectors.
        picture_bytes: of one picture.
        weights: uint8.
    """

    library: str
    steps: tuple[Step, ...]
    offsets: Mapping[str, int]
    arena_bytes: int
    scratch_bytes: int
    outputs: tuple[Value, ...]
    channels: tuple[int, ...]
    picture_bytes: int
    weights: NDArray[np.uint8]


def rounded(size: int) -> int:
    """Round up to a multiple of ALIGN."""
    return -(-size // ALIGN) * ALIGN


def memory_bytes(arena_bytes: int, scratch_bytes: int, threads: int) -> int:
    """Return what there is to allocate: the arena, and behind it the scratch memory of each thread.

    Each begins at a multiple of ALIGN. At the end of a map a vector may be read to its end, so something is behind it.
    """
    return rounded(arena_bytes) + max(ALIGN, threads * rounded(scratch_bytes))


def aligned_memory(size: int) -> NDArray[np.uint8]:
    """Return bytes whose address is a multiple of ALIGN; they are not initialized."""
    whole = np.empty(size + ALIGN, np.uint8)
    start = -int(whole.ctypes.data) % ALIGN
    return whole[start : start + size]


def engine_folder() -> Path:
    """Return the folder of machine code and of what is kept beside it; raises WeightsError where there is no home."""
    return cache_folder() / "engine"


def opened(path: Path) -> ctypes.CDLL:
    """Load a library; raises EngineError where that cannot be done."""
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise EngineError(f"{path}: not loadable ({error}): delete it, and it is made again") from None


def weights_file(checkpoint: Checkpoint, resolution: tuple[int, int], target: Target) -> Path | None:
    """Return where the prepared network of a checkpoint is, or would be; None where it was not read from a file.

    Some of its numbers take part, so that one whose tensors were replaced and its sha256 was not is another one.
    """
    if checkpoint.sha256 is None:
        return None
    some = hashlib.sha256()
    for name in sorted(checkpoint.tensors):
        some.update(checkpoint.tensors[name].reshape(-1)[:16].tobytes())
    key = (checkpoint.sha256, some.hexdigest(), checkpoint.card.precision, resolution, target)
    return engine_folder() / "prepared" / f"{_digest(key)}.bin"


def note_file(card: Card, resolution: tuple[int, int], target: Target) -> Path:
    """Return where the name of a table's library is, or would be, whatever its weights are."""
    from mobilenets.arch import arch_to_json

    table = json.dumps(arch_to_json(card.arch), sort_keys=True)
    what = (table, card.width, resolution, len(card.labels), card.in_channels, card.precision)
    return engine_folder() / "prepared" / f"{_digest((what, target))}.library"


def compiled(card: Card, target: Target) -> bool:
    """Say whether the library that a model needs for pictures of its card's size is in the cache.

    Only its table is looked at. So in int8 a kernel or two may yet be missing where other weights were compiled: a
    depthwise convolution has another one where its codes are not those of ReLU6.
    """
    try:
        name = note_file(card, card.resolution, target).read_text(encoding="ascii")
    except (OSError, ValueError):
        return False
    return bool(name) and (engine_folder() / Path(name).name).is_file()


def _digest(key: object) -> str:
    return hashlib.sha256(f"{key!r} {_stamp()} {_tiles()}".encode()).hexdigest()[:32]


@cache
def _stamp() -> str:
    """Return what tells this version of the package, and of those that compile, from others: files, sizes and times.

    All of the sources that take part are looked at, and none is read.
    """
    here = Path(__file__).parent
    files = [each for folder in (here, here.parent / "arch") for each in os.scandir(folder) if each.is_file()]
    found = [(each.path, each.stat().st_size, each.stat().st_mtime_ns) for each in files]
    for package in ("halide", "ziglang"):
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            state = Path(spec.origin).stat()
            found.append((spec.origin, state.st_size, state.st_mtime_ns))
    return hashlib.sha256(repr(sorted(found)).encode()).hexdigest()


def _tiles() -> str:
    """Return what tells tables of tiles that were tuned here from others: `tune` writes one while others read it."""
    tables = sorted(engine_folder().glob("tiles-*.json"))
    return " ".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in tables)


def write(path: Path | None, prepared: Prepared, note: Path) -> None:
    """Keep a prepared network, if its checkpoint has a file, and the name of its library.

    Where the folder cannot be written to, nothing is kept.
    """
    header = {
        **{name: getattr(prepared, name) for name in _HEADER},
        "weight_bytes": prepared.weights.nbytes,
    }
    text = json.dumps(header).encode()
    front = _MAGIC + len(text).to_bytes(8, "little") + text
    try:
        write_atomically(note, prepared.library)
        if path is not None:
            write_atomically(path, front + prepared.weights.tobytes())
            _bound(path)
    except InputError:
        return


def _bound(newest: Path) -> None:
    """Delete the files that were not used for longest, until the rest are few enough."""
    held: list[tuple[float, int, Path]] = []
    for path in newest.parent.glob("*.bin"):
        try:
            state = path.stat()
        except OSError:  # another process has deleted it
            continue
        held.append((state.st_mtime, state.st_size, path))
    total = sum(size for _, size, _ in held)
    for _, size, path in sorted(held):
        if total <= MOST_BYTES:
            break
        if path != newest:
            path.unlink(missing_ok=True)
            total -= size


def read(path: Path) -> Prepared | None:
    """Return a prepared network, or None where there is none, or its library is gone, or the file is not whole."""
    try:
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                return None
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            weights = aligned_memory(header["weight_bytes"])
            if file.readinto(weights.data) != len(weights) or file.read(1):
                return None
        if not (path.parents[1] / header["library"]).is_file():
            return None
        with suppress(OSError):  # a cache that may only be read
            os.utime(path)
        return _of_header(header, weights)
    except (OSError, ValueError, KeyError, TypeError, MemoryError):
        return None


def _of_header(header: Mapping[str, Any], weights: NDArray[np.uint8]) -> Prepared:
    steps = tuple(
        Step(symbol, tuple(map(_argument, arguments)), _value(out), tuple(axis))
        for symbol, arguments, out, axis in header["steps"]
    )
    numbers = {name: int(header[name]) for name in _NUMBERS}
    return Prepared(
        library=header["library"],
        steps=steps,
        offsets=header["offsets"],
        outputs=tuple(map(_value, header["outputs"])),
        channels=tuple(header["channels"]),
        weights=weights,
        **numbers,
    )


def _argument(held: Iterable[Any]) -> Value | Weights:
    first, extents, strides, item = held
    kind = Value if isinstance(first, str) else Weights
    return kind(first, tuple(extents), tuple(strides), item)


def _value(held: Iterable[Any]) -> Value:
    name, extents, strides, item = held
    return Value(name, tuple(extents), tuple(strides), item)
