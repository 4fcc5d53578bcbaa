"""An architecture by name, with the table's fields as options, and as JSON for a checkpoint's card."""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mobilenets.arch.detector import Anchors, Detector, Extra
from mobilenets.arch.mobilenet import (
    CLASSIFIERS,
    Arch,
    Bneck,
    Classifier,
    Conv,
    Dense,
    InvertedResidual,
    Pool,
    Row,
    Separable,
    SqueezeExcite,
)
from mobilenets.arch.ssdlite import DETECTORS
from mobilenets.errors import InputError
from mobilenets.files import refuse_path

ARCHITECTURES: Mapping[str, Arch] = types.MappingProxyType({**CLASSIFIERS, **DETECTORS})
"""Every table there is, by name."""

OPTIONS = (
    "activation",
    "bottleneck_activation",
    "bn_eps",
    "divisor",
    "expands_always",
    "expansion",
    "padding",
    "projection_shortcut",
    "shortcut",
    "small_image_strides",
)
"""The fields of an `Arch` that may follow a name: the V2 paper's ablations and what published weights differ in."""

_IF_GIVEN = ("inner", "squeezed")
"""Fields that the papers' tables lack: written only where a narrowed network has them."""

_MOST_BLOCKS = 1000
_LARGEST_KERNEL = 31
_MOST_MAPS = 32
_MOST_ANCHORS = 100

_ROWS: dict[str, type[Row]] = {
    row.__name__: row for row in (Conv, Separable, InvertedResidual, Bneck, Pool, Dense, Classifier)
}


def arch_named(name: str) -> Arch:
    """Return the table called `name`, optionally varied: `NAME:field=value,field=value`.

    >>> arch_named("mobilenet_v2").rows[2]
    InvertedResidual(t=6, c=24, n=2, s=2, kernel=3, se=False, inner=None, squeezed=None)
    >>> arch_named("mobilenet_v2:shortcut=none,expansion=3").expansion
    3.0

    Raises:
        InputError: unknown name, field or value; says what there is.
        CheckpointError: a path instead of a name.
    """
    base, _, options = name.partition(":")
    if base not in ARCHITECTURES:
        refuse_path(name, "the name of an architecture")
        near = difflib.get_close_matches(base, ARCHITECTURES, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(ARCHITECTURES)}"
        raise InputError(f"no architecture is called {base!r}: {hint}")
    arch = ARCHITECTURES[base]
    if not options:
        return arch
    changes: dict[str, Any] = {}
    hints = _hints(Arch)
    for option in options.split(","):
        field, equals, text = option.partition("=")
        if field not in OPTIONS or not equals:
            raise InputError(
                f"{name!r}: {option!r} is not an option; write field=value with one of {', '.join(OPTIONS)}"
            )
        changes[field] = _parse(text, hints[field], f"{name!r}: {field}")
    return replace(arch, name=name, **changes)


def _parse(text: str, hint: Any, where: str) -> object:
    """Turn an option's text into a value of the field's type."""
    value: object = text
    if hint is bool:
        value = {"true": True, "false": False}.get(text.lower(), text)
    elif text == "none" and type(None) in get_args(hint):
        value = None
    elif hint is int and text.isdecimal():
        value = int(text)
    elif "float" in str(hint):
        try:
            value = float(text)
        except ValueError:
            value = text
    return _checked(value, hint, where)


def arch_to_json(arch: Arch) -> dict[str, Any]:
    """Return the table itself as JSON-serialisable data, complete: :func:`arch_from_json` needs no name."""
    data: dict[str, Any] = {}
    for field in fields(arch):
        value = getattr(arch, field.name)
        if field.name == "rows":
            value = [{"row": type(row).__name__} | _fields_of(row) for row in value]
        elif field.name == "se":
            value = _fields_of(value)
        elif field.name == "detector":
            value = None if value is None else asdict(value)
        data[field.name] = value
    return data


def arch_from_json(data: object) -> Arch:
    """Return the table that :func:`arch_to_json` wrote.

    Raises:
        InputError: a missing or unknown field, or a value of the wrong type or range.
    """
    if not isinstance(data, dict):
        raise InputError(f"an architecture must be a JSON object, not {type(data).__name__}")
    values = dict(data)
    rows = values.get("rows")
    if not isinstance(rows, list) or not rows or len(rows) > 1000:
        raise InputError("an architecture needs between 1 and 1000 rows")
    values["rows"] = tuple(_row_from_json(row, index) for index, row in enumerate(rows))
    values["se"] = _build(SqueezeExcite, values.get("se", {}), "se")
    if values.get("detector") is not None:
        values["detector"] = _detector_from_json(values["detector"])
    arch = _build(Arch, values, "architecture")
    assert isinstance(arch, Arch)
    _check_table(arch)
    return arch


def _check_table(arch: Arch) -> None:
    """Refuse a table that no plan can be made of, or only an absurdly long one: it may come from a stranger's file."""
    first, *others = arch.rows
    if not isinstance(first, Conv) or first.expands:
        raise InputError("an architecture's first row must be a convolution of its own width")
    if sum(getattr(row, "n", 1) for row in arch.rows) > _MOST_BLOCKS:
        raise InputError(f"an architecture must have at most {_MOST_BLOCKS:,} blocks")
    detector = arch.detector
    if detector is not None and any(isinstance(row, Pool) for row in others):
        raise InputError("a detector's table ends before the pooling")
    pooled = False
    for index, row in enumerate(others, 1):
        if isinstance(row, Dense | Classifier) != pooled:
            what = "comes before the pooling" if not pooled else "comes after the pooling"
            raise InputError(f"architecture row {index}: {type(row).__name__} {what}")
        if isinstance(row, Classifier) and row is not others[-1]:
            raise InputError(f"architecture row {index}: Classifier is not the last row")
        pooled = pooled or isinstance(row, Pool)
    for index, row in enumerate(arch.rows):
        kernel = getattr(row, "kernel", 1)
        if kernel % 2 == 0 or kernel > _LARGEST_KERNEL:
            raise InputError(f"architecture row {index}: kernel must be odd, from 1 to {_LARGEST_KERNEL}, not {kernel}")


def _detector_from_json(data: object) -> Detector:
    """Return the heads that :func:`arch_to_json` wrote; what is wrong with them raises InputError."""
    if not isinstance(data, dict):
        raise InputError("a detector must be a JSON object")
    values = {name: _tuples(value) for name, value in data.items()}
    extras, anchors = data.get("extras"), data.get("anchors")
    if not isinstance(extras, list | tuple) or not isinstance(anchors, dict):
        raise InputError("a detector needs a list of extra stages, and anchors")
    values["extras"] = tuple(_build(Extra, extra, "extra stage") for extra in extras)
    values["anchors"] = _build(Anchors, {name: _tuples(value) for name, value in anchors.items()}, "anchors")
    detector = _build(Detector, values, "detector")
    assert isinstance(detector, Detector)
    maps = len(detector.taps) + len(detector.extras)
    if not detector.taps or len(detector.anchors.levels) != maps or maps > _MOST_MAPS:
        raise InputError(
            f"a detector needs anchors for each of its maps, at most {_MOST_MAPS}: these are for "
            f"{len(detector.anchors.levels)}, and it has {maps}"
        )
    if not all(1 <= count <= _MOST_ANCHORS for count in detector.anchors.counts):
        raise InputError(f"a detector needs from 1 to {_MOST_ANCHORS} anchors for each of its maps")
    if min(min(anchor) for level in detector.anchors.levels for anchor in level) <= 0 or min(detector.coder) <= 0:
        raise InputError("scales and ratios of a detector's anchors, and its coder's factors, must be above 0")
    return detector


def _tuples(value: object) -> object:
    """Return JSON's lists as tuples, whatever they hold."""
    return tuple(_tuples(each) for each in value) if isinstance(value, list) else value


def _row_from_json(row: object, index: int) -> Row:
    if not isinstance(row, dict) or not isinstance(row.get("row"), str) or row["row"] not in _ROWS:
        raise InputError(f"architecture row {index} is of no known kind (known: {', '.join(_ROWS)})")
    values = {field: value for field, value in row.items() if field != "row"}
    built: Row = _build(_ROWS[row["row"]], values, f"architecture row {index}")
    return built


def _fields_of(value: Any) -> dict[str, Any]:
    values = {field.name: getattr(value, field.name) for field in fields(value)}
    return {name: each for name, each in values.items() if each is not None or name not in _IF_GIVEN}


@cache
def _hints(kind: type) -> Mapping[str, Any]:
    """Return the annotations of a dataclass, evaluated once: a table of networks asks thousands of times."""
    return get_type_hints(kind)


def _build(kind: Any, values: object, where: str) -> Any:
    """Build a frozen dataclass from JSON, checking every field against its annotation."""
    if not isinstance(values, dict):
        raise InputError(f"{where} must be a JSON object")
    hints = _hints(kind)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise InputError(
            f"{where}: unknown field {unknown[0]!r}; the file may be from a newer version: upgrade mobilenets"
        )
    for field, value in values.items():
        if field not in ("rows", "se", "detector") or kind is not Arch:
            _checked(value, hints[field], f"{where}: {field}")
    try:
        return kind(**values)
    except TypeError as error:
        raise InputError(f"{where}: {error}") from None


def _checked(value: object, hint: Any, where: str) -> object:
    """Return `value` if it fits the annotation and is a sane size, else raise InputError."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        for choice in get_args(hint):
            try:
                return _checked(value, choice, where)
            except InputError:
                continue
        raise InputError(f"{where} cannot be {value!r}")
    if origin is tuple:
        hints = get_args(hint)
        if not isinstance(value, tuple) or (hints[-1] is not Ellipsis and len(value) != len(hints)):
            raise InputError(f"{where} cannot be {value!r}")
        for index, each in enumerate(value):
            _checked(each, hints[0] if hints[-1] is Ellipsis else hints[index], where)
    elif origin is Literal:
        if value not in get_args(hint):
            raise InputError(f"{where} cannot be {value!r}: it is one of {', '.join(map(str, get_args(hint)))}")
    elif hint is type(None):
        if value is not None:
            raise InputError(f"{where} cannot be {value!r}")
    elif hint is int:
        if type(value) is not int or not 0 < value <= 1_000_000:
            raise InputError(f"{where} must be a whole number from 1 to 1,000,000, not {value!r}")
    elif hint is float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1000:
            raise InputError(f"{where} must be a number from 0 to 1000, not {value!r}")
    elif type(value) is not hint:
        raise InputError(f"{where} must be {hint.__name__}, not {value!r}")
    return value
