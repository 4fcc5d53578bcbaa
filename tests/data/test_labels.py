from __future__ import annotations

import numpy as np
import pytest

from mobilenets.data.labels import index_labels, mapping_to, ordered, tidy
from mobilenets.errors import InputError


def test_names_come_first_then_indices() -> None:
    used = np.array([0, 2])
    assert mapping_to(("b", "x", "a"), used, ["a", "b"], "set").tolist() == [1, -1, 0]
    assert mapping_to(("1", "x", "0"), used, ["1", "0"], "set").tolist() == [0, -1, 1]
    assert mapping_to(("1", "x", "0"), used, ["tench", "shark"], "set").tolist() == [1, -1, 0]


def test_unknown_classes_are_named_with_what_the_model_knows() -> None:
    with pytest.raises(InputError) as caught:
        mapping_to(("ant", "bee", "cat"), np.array([0, 1, 2]), ["ant", "wasp"], "photos")
    assert str(caught.value) == (
        "photos: 2 of 3 classes are not among the model's 2: 'bee', 'cat'; the model knows 'ant', 'wasp':"
        " rename the classes, or train on this data"
    )


def test_a_name_that_means_two_classes_is_refused_only_when_used() -> None:
    labels = ["crane", "dog", "crane"]
    assert mapping_to(("dog",), np.array([0]), labels, "set").tolist() == [1]
    with pytest.raises(InputError, match="more than one class named 'crane'"):
        mapping_to(("crane", "dog"), np.array([0, 1]), labels, "set")


def test_names_are_tidied_and_ordered() -> None:
    assert tidy(" e\u0301 ") == "\u00e9"
    assert ordered(["10", "9", "100"]) == ("9", "10", "100")
    assert ordered(["10", "9", "a"]) == ("10", "9", "a")
    assert index_labels(["2"], "set") == ("0", "1", "2")
