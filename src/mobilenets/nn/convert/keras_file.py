"""The inside of Keras files: the model's description, where there is one, and the arrays of every layer.

Three layouts exist: HDF5 with one group a layer (Keras 1 and 2, and Keras 3's `.h5`), HDF5 with numbered variables
(Keras 3's `.weights.h5`), and a zip of the latter with the description (`.keras`). Nothing in them is ever run.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from mobilenets.errors import ConvertError, MissingExtraError
from mobilenets.nn.convert.layers import Array

Names = tuple[str, ...]
"""A layer's name after those of the models it is nested in."""

_LARGEST_ARRAY = 100_000_000  # numbers; the largest layer of the family has some 2 million
_LARGEST_BYTES = 2_000_000_000
_DEEPEST = 8  # models within models


@dataclass(frozen=True, slots=True, eq=False)
class KerasFile:
    """What a file holds.

    `arrays` is in the file's order. `config` is None for a file of weights only; then `ordered` says whether that
    order is the one the layers run in.
    """

    config: Mapping[str, Any] | None
    arrays: Mapping[Names, tuple[Array, ...]]
    version: int  # Keras's, the first number
    ordered: bool

    def of(self, names: Names) -> tuple[Array, ...]:
        """Return a layer's arrays in Keras's order: kernel, bias; or gamma, beta, mean, variance."""
        return self.arrays.get(names, self.arrays.get((names[0], names[-1]), ()))


def open_file(path: Path) -> KerasFile:
    """Read a `.keras`, `.h5` or `.weights.h5` file.

    Raises:
        ConvertError: it cannot be read, is damaged, or is none of these.
        MissingExtraError: h5py is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise MissingExtraError("h5py", "convert") from None
    try:
        if zipfile.is_zipfile(path):
            return _zip(path, h5py)
        with h5py.File(path, "r") as file:
            return _hdf5(file, path)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise ConvertError(f"{path}: cannot be read ({error.strerror})") from None
        raise ConvertError(f"{path}: is not a Keras file, or damaged or truncated: get a fresh copy") from None


def _zip(path: Path, h5py: Any) -> KerasFile:
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
            if not {"config.json", "model.weights.h5"} <= set(sizes) or sum(sizes.values()) > _LARGEST_BYTES:
                raise ConvertError(
                    f"{path}: is a zip file, but not one that Keras saved: it lacks config.json or weights"
                )
            config = json.loads(archive.read("config.json"))
            data = archive.read("model.weights.h5")
    except (zipfile.BadZipFile, EOFError, NotImplementedError):
        raise ConvertError(f"{path}: is damaged or truncated: get a fresh copy") from None
    with h5py.File(io.BytesIO(data), "r") as file:
        return KerasFile(config, dict(_numbered(file, config, (), path)), 3, ordered=True)


def _hdf5(file: Any, path: Path) -> KerasFile:
    if "layers" in file and "keras_version" not in file.attrs:
        return KerasFile(None, dict(_numbered(file, None, (), path)), 3, ordered=False)
    config = file.attrs.get("model_config")
    root = file.get("model_weights", file)
    if not {"layer_names", "layer_names0"} & set(root.attrs):
        raise ConvertError(f"{path}: is an HDF5 file, but not one that Keras saved")
    version = str(_text(file.attrs.get("keras_version", root.attrs.get("keras_version", "2"))))
    arrays: dict[Names, list[Array]] = {}
    for name in _texts(root, "layer_names"):
        group = _child(root, name, path)
        for full_name in _texts(group, "weight_names"):
            array = _array(group, full_name, path)
            inner = full_name.split("/")[-2] if "/" in full_name else name
            arrays.setdefault((name,), []).append(array)
            arrays.setdefault((name, inner), []).append(array)
    kept = {names: tuple(found) for names, found in arrays.items()}
    parsed = None if config is None else json.loads(_text(config))
    return KerasFile(parsed, kept, int(version.partition(".")[0]), ordered=True)


def _numbered(
    group: Any, config: Mapping[str, Any] | None, outer: Names, path: Path
) -> Iterator[tuple[Names, tuple[Array, ...]]]:
    """Walk Keras 3's groups: `layers/depthwise_conv2d_3/vars/0`.

    Groups are called after the layer's class and counted; the layer's name is an attribute, in newer files. In older
    ones it is found by counting the classes of the description.
    """
    if len(outer) > _DEEPEST or "layers" not in group:
        return
    counted = _counted_names(config)
    layers = _child(group, "layers", path)
    for key in sorted(layers, key=_natural):
        layer = _child(layers, key, path)
        name = counted.get(key, key)
        if "vars" in layer:
            variables = _child(layer, "vars", path)
            name = _text(variables.attrs.get("name", name))
            yield (*outer, name), tuple(_array(variables, number, path) for number in sorted(variables, key=int))
        inner = next((each for each in _layers_of(config) if _name_of(each) == name), None)
        yield from _numbered(layer, inner, (*outer, name), path)


def _layers_of(config: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    found = (config or {}).get("config", {})
    layers = found.get("layers", []) if isinstance(found, dict) else found
    return [layer for layer in layers if isinstance(layer, dict)]


def _name_of(layer: Mapping[str, Any]) -> str:
    return str(layer.get("name", layer.get("config", {}).get("name", "")))


def _counted_names(config: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the layers' names by the groups that Keras stores them in: conv2d, conv2d_1, ..."""
    counts: dict[str, int] = {}
    names: dict[str, str] = {}
    for layer in _layers_of(config):
        words = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", str(layer.get("class_name")))
        kind = re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()
        number = counts.setdefault(kind, 0)
        names[f"{kind}_{number}" if number else kind] = _name_of(layer)
        counts[kind] += 1
    return names


def _natural(key: str) -> tuple[str, int]:
    """Sort conv2d, conv2d_1, conv2d_2, conv2d_10 as they are counted."""
    kind, _, number = key.rpartition("_")
    return (kind, int(number)) if kind and number.isdecimal() else (key, 0)


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _texts(group: Any, name: str) -> list[str]:
    """Return a list of names; Keras splits one that is long over several attributes."""
    if name in group.attrs:
        return [_text(value) for value in group.attrs[name]]
    found: list[str] = []
    for part in count():
        if f"{name}{part}" not in group.attrs:
            return found
        found += [_text(value) for value in group.attrs[f"{name}{part}"]]
    return found


def _child(group: Any, name: str, path: Path) -> Any:
    """Return what lies in a group by that name; a link may lead to other files, and is not followed."""
    import h5py

    place = group
    for part in name.strip("/").split("/"):
        if not isinstance(place.get(part, getlink=True), h5py.HardLink):
            raise ConvertError(f"{path}: {name} is a link to elsewhere, which is not followed")
        place = place[part]
    return place


def _array(group: Any, name: str, path: Path) -> Array:
    """Return an array as float32."""
    data = _child(group, name, path)
    if data.is_virtual or data.external or data.size > _LARGEST_ARRAY or data.dtype.kind not in "fiu":
        raise ConvertError(f"{path}: {name} is no array of a layer's weights")
    return np.asarray(data[()]).astype(np.float32)
