"""TensorFlow's GraphDef, read from its bytes: nodes, their attributes and constants. Nothing of networks.

The wire format is Protocol Buffers'; the field numbers are those of TensorFlow's graph.proto, node_def.proto,
attr_value.proto and tensor.proto. TensorFlow itself is not needed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MOST_NODES = 200_000
_DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8"}  # DataType: DT_FLOAT, DT_DOUBLE, DT_INT32, DT_INT64
_VALUES = {1: 5, 2: 6, 3: 7, 9: 10}  # where TensorProto repeats values of that type that are not in tensor_content


@dataclass(frozen=True, slots=True, eq=False)
class GraphNode:
    """One operation: its inputs by the names of other nodes, and its attributes as bytes."""

    name: str
    op: str
    inputs: tuple[str, ...]
    attributes: dict[str, memoryview]

    def number(self, name: str, default: float) -> float:
        """Return a float attribute (AttrValue.f)."""
        found = _first(self.attributes.get(name), 4)
        return default if found is None else float(struct.unpack("<f", found)[0])

    def text(self, name: str) -> str:
        """Return a text attribute (AttrValue.s), empty where it is not set."""
        found = _first(self.attributes.get(name), 2)
        return "" if found is None else bytes(found).decode()

    def integers(self, name: str) -> tuple[int, ...]:
        """Return a list of integers (AttrValue.list.i)."""
        listed = _first(self.attributes.get(name), 1)
        return () if listed is None else tuple(_repeated(listed, 3))

    def constant(self) -> NDArray[Any]:
        """Return the array that a Const node holds; ValueError for a type that no network's numbers are of."""
        tensor = _first(self.attributes.get("value"), 8)
        if self.op != "Const" or tensor is None:
            raise ValueError(f"{self.name} is no constant")
        kind, shape, content = _first(tensor, 1), _first(tensor, 2), _first(tensor, 4)
        if kind not in _DTYPES:
            raise ValueError(f"{self.name} is of type {kind}")
        sides = [_first(side, 1) or 0 for number, side in _fields(shape) if number == 2] if shape is not None else []
        count = prod(sides)
        if content is not None:
            return np.frombuffer(content, _DTYPES[kind], count).reshape(sides)
        values = np.array(_numbers(tensor, _VALUES[kind], _DTYPES[kind]), _DTYPES[kind])
        if len(values) == 1:  # one value stands for all
            values = np.full(count, values[0])
        return values.reshape(sides)


def read_graph(content: bytes) -> dict[str, GraphNode]:
    """Return a graph's nodes by name; damaged bytes raise ValueError, IndexError or struct.error."""
    nodes: dict[str, GraphNode] = {}
    for number, value in _fields(memoryview(content)):
        if number != 1:
            continue
        name, op, inputs, attributes = "", "", [], {}
        for part, data in _fields(value):
            match part:
                case 1:
                    name = bytes(data).decode()
                case 2:
                    op = bytes(data).decode()
                case 3:  # "^name" only says what runs first; "name:0" is an output's number
                    inputs.append(bytes(data).decode().partition(":")[0])
                case 5:
                    entry = dict(_fields(data))
                    attributes[bytes(entry[1]).decode()] = entry.get(2, memoryview(b""))
        nodes[name] = GraphNode(name, op, tuple(each for each in inputs if not each.startswith("^")), attributes)
        if len(nodes) > _MOST_NODES:
            raise ValueError(f"more than {_MOST_NODES:,} nodes")
    return nodes


def _fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """Yield the fields of a message: a varint as int, all else as a view of its bytes."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        match key & 7:
            case 0:
                value, place = _varint(data, place)
                yield key >> 3, value
                continue
            case 1:
                size = 8
            case 2:
                size, place = _varint(data, place)
            case 5:
                size = 4
            case _:
                raise ValueError("no Protocol Buffers message")
        if place + size > len(data):
            raise ValueError("truncated")
        yield key >> 3, data[place : place + size]
        place += size


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, place
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _first(data: memoryview | None, number: int) -> Any:
    """Return the first field of this number, None where there is none."""
    return None if data is None else next((value for found, value in _fields(data) if found == number), None)


def _repeated(data: memoryview, number: int) -> Iterator[int]:
    """Yield a repeated varint, packed or not."""
    for found, value in _fields(data):
        if found != number:
            continue
        if isinstance(value, int):
            yield value
            continue
        place = 0
        while place < len(value):
            each, place = _varint(value, place)
            yield each


def _numbers(data: memoryview, number: int, dtype: str) -> list[float]:
    """Return a repeated number of TensorProto: integers are varints (negative ones of 64 bits), floats are packed."""
    if dtype[1] == "i":
        return [value - (1 << 64) if value >> 63 else value for value in _repeated(data, number)]
    values: list[float] = []
    for found, value in _fields(data):
        if found == number:
            values += np.frombuffer(value, dtype).tolist()
    return values
