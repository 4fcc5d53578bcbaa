"""Architectures by name and from JSON: what was written is read, and what is malformed is refused in one line."""

from __future__ import annotations

import copy
import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilenets.arch import ARCHITECTURES, Arch, arch_from_json, arch_named, arch_to_json, cost, plan
from mobilenets.arch.naming import OPTIONS
from mobilenets.errors import InputError

NAMES = st.sampled_from(sorted(ARCHITECTURES))
VALUES = {
    "activation": ("relu", "relu"),
    "bottleneck_activation": ("relu6", "relu6"),
    "bn_eps": ("1e-3", 1e-3),
    "divisor": ("4", 4),
    "expands_always": ("true", True),
    "expansion": ("3", 3.0),
    "padding": ("same", "same"),
    "projection_shortcut": ("True", True),
    "shortcut": ("none", "none"),
    "small_image_strides": ("false", False),
}


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_name(name: str) -> None:
    assert arch_named(name) is ARCHITECTURES[name]
    assert ARCHITECTURES[name].name == name


@pytest.mark.parametrize("option", OPTIONS)
def test_option(option: str) -> None:
    text, value = VALUES[option]
    arch = arch_named(f"mobilenet_v2:{option}={text}")
    assert getattr(arch, option) == value
    assert (
        replace(arch, **{"name": "mobilenet_v2", option: getattr(ARCHITECTURES["mobilenet_v2"], option)})
        == (ARCHITECTURES["mobilenet_v2"])
    )


def test_several_options() -> None:
    arch = arch_named("mobilenet_v2_cifar:projection_shortcut=true,activation=relu,expansion=none")
    assert (arch.projection_shortcut, arch.activation, arch.expansion) == (True, "relu", None)
    assert arch.name == "mobilenet_v2_cifar:projection_shortcut=true,activation=relu,expansion=none"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mobilenet_v22", "did you mean mobilenet_v2"),
        ("vgg16", "there are: mobilenet_v1, mobilenet_v2"),
        ("", "there are:"),
        ("mobilenet_v2:expansion", "write field=value with one of"),
        ("mobilenet_v2:rows=3", "write field=value with one of"),
        ("mobilenet_v2:expansion=3,", "write field=value"),
        ("mobilenet_v2:expansion=six", "expansion cannot be 'six'"),
        ("mobilenet_v2:expansion=nan", "expansion cannot be nan"),
        ("mobilenet_v2:bn_eps=-1", "bn_eps must be a number from 0 to 1000, not -1.0"),
        ("mobilenet_v2:shortcut=both", "it is one of bottleneck, expansion, none"),
        ("mobilenet_v2:padding=valid", "it is one of symmetric, same"),
        ("mobilenet_v2:projection_shortcut=1", "projection_shortcut must be bool"),
        ("mobilenet_v2:divisor=0", "divisor must be a whole number"),
        ("mobilenet_v2:divisor=2.5", "divisor must be a whole number"),
        ("mobilenet_v2:divisor=²", "divisor must be a whole number"),
    ],
)
def test_refused_name(name: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        arch_named(name)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def through_text(arch: Arch) -> Arch:
    return arch_from_json(json.loads(json.dumps(arch_to_json(arch))))


@given(NAMES, st.dictionaries(st.sampled_from(OPTIONS), st.none()))
def test_round_trip(name: str, options: dict[str, None]) -> None:
    chosen = ",".join(f"{option}={VALUES[option][0]}" for option in options)
    arch = arch_named(f"{name}:{chosen}" if chosen else name)
    again = through_text(arch)
    assert again == arch
    assert plan(again, resolution=64).ops == plan(arch, resolution=64).ops


def test_json_is_the_whole_table() -> None:
    """A checkpoint's card needs no architecture of that name to be known."""
    arch = replace(ARCHITECTURES["mobilenet_v2"], name="mine", rows=ARCHITECTURES["mnasnet_a1"].rows, bn_eps=0.5)
    assert through_text(arch) == arch
    assert set(arch_to_json(arch)) == {field.name for field in fields(Arch)}


# -- Malformed tables --

V2 = arch_to_json(ARCHITECTURES["mobilenet_v2"])
V3 = arch_to_json(ARCHITECTURES["mobilenet_v3_small"])


def changed(table: dict[str, Any], path: tuple[str | int, ...], value: object) -> dict[str, Any]:
    copied = copy.deepcopy(table)
    inner: Any = copied
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return copied


STEM, SEPARABLE, POOL, CLASSIFIER = (
    {"row": "Conv", "c": 32, "s": 2},
    {"row": "Separable", "c": 64},
    {"row": "Pool"},
    {"row": "Classifier"},
)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "must be a JSON object, not NoneType"),
        ([], "must be a JSON object, not list"),
        ({}, "between 1 and 1000 rows"),
        ({"rows": [STEM]}, "missing 2 required positional arguments: 'name' and 'paper'"),
        (changed(V2, ("rows",), []), "between 1 and 1000 rows"),
        (changed(V2, ("rows",), [STEM] * 1001), "between 1 and 1000 rows"),
        (changed(V2, ("rows", 0), 7), "row 0 is of no known kind"),
        (changed(V2, ("rows", 0, "row"), "Transformer"), "row 0 is of no known kind"),
        (changed(V2, ("rows", 0, "row"), ["Conv"]), "row 0 is of no known kind"),
        (changed(V2, ("rows", 0, "c"), 0), "row 0: c must be a whole number from 1 to 1,000,000, not 0"),
        (changed(V2, ("rows", 0, "c"), 32.0), "row 0: c must be a whole number"),
        (changed(V2, ("rows", 0, "c"), True), "row 0: c must be a whole number"),
        (changed(V2, ("rows", 1, "t"), 10**400), "row 1: t must be a number from 0 to 1000"),
        (changed(V2, ("rows", 1, "t"), float("nan")), "row 1: t must be a number from 0 to 1000"),
        (changed(V2, ("rows", 1, "n"), 1_000_000), "at most 1,000 blocks"),
        (changed(V2, ("rows", 1, "kernel"), 4), "row 1: kernel must be odd, from 1 to 31, not 4"),
        (changed(V2, ("rows", 1, "kernel"), 333), "row 1: kernel must be odd, from 1 to 31, not 333"),
        (changed(V2, ("rows", 1, "dilation"), 2), "unknown field 'dilation'; the file may be from a newer version"),
        (changed(V2, ("rows", 0), SEPARABLE), "first row must be a convolution"),
        (changed(V2, ("rows", 0, "expands"), True), "first row must be a convolution of its own width"),
        (changed(V2, ("rows",), [STEM, CLASSIFIER]), "row 1: Classifier comes before the pooling"),
        (changed(V2, ("rows",), [STEM, POOL, SEPARABLE]), "row 2: Separable comes after the pooling"),
        (changed(V2, ("rows",), [STEM, POOL, POOL]), "row 2: Pool comes after the pooling"),
        (changed(V2, ("rows",), [STEM, POOL, CLASSIFIER, CLASSIFIER]), "row 2: Classifier is not the last row"),
        (changed(V2, ("name",), 5), "name must be str, not 5"),
        (changed(V2, ("shortcut",), "both"), "shortcut cannot be 'both'"),
        (changed(V2, ("shortcut",), []), "shortcut cannot be []"),
        (changed(V2, ("projection_shortcut",), 1), "projection_shortcut must be bool, not 1"),
        (changed(V2, ("se",), None), "se must be a JSON object"),
        (changed(V3, ("se", "gate"), "tanh"), "gate cannot be 'tanh'"),
        (changed(V3, ("se", "ratio"), "a"), "ratio must be a number"),
    ],
)
def test_refused_json(data: object, said: str) -> None:
    with pytest.raises(InputError) as error:
        arch_from_json(data)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 40)
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.sampled_from(["Conv", "Pool", "Classifier", "Bneck", "relu", "same", "none", "", "a\nb"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["row", "c", "n", "rows"]), inner),
    max_leaves=5,
)


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a table's JSON with up to three places replaced, dropped, doubled, or with something added."""
    data: dict[str, Any] = copy.deepcopy(draw(st.sampled_from([V2, V3])))
    for _ in range(draw(st.integers(1, 3))):
        place: Any = data
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and draw(st.booleans()):
                place = place[key]
                continue
            what = draw(st.sampled_from(["replace", "replace", "drop", "double"]))
            if what == "replace":
                place[key] = draw(JSON)
            elif what == "drop":
                del place[key]
            elif isinstance(place, list):
                place.insert(draw(st.integers(0, len(place))), copy.deepcopy(place[key]))
            else:
                place[f"{key}_"] = place[key]
            break
    return data


@given(mutated())
def test_mutated_json_is_refused_or_sound(data: dict[str, Any]) -> None:
    """Whatever a stranger's file says: an InputError, or a table that can be laid out, counted and written again."""
    try:
        arch = arch_from_json(data)
        layout = plan(arch)
    except InputError:
        return
    assert cost(layout).multiply_adds >= 0
    assert {source for op in layout.ops for source in op.sources} <= {"input", *(op.name for op in layout.ops)}
    assert len({op.name for op in layout.ops}) == len(layout.ops)
    assert through_text(arch) == arch


@given(JSON)
def test_any_other_json_is_refused(data: object) -> None:
    with pytest.raises(InputError):
        arch_from_json(data)
