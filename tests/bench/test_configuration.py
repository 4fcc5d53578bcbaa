from __future__ import annotations

import pytest

from mobilenets.bench.configuration import Configuration, Job, combined, counted, named
from mobilenets.errors import InputError


def test_configurations_are_every_combination_that_is_computed() -> None:
    found = combined(["torch", "reference"], None, (1, 2), ("float32", "int8"))
    assert found == (
        Configuration("torch", "float32", 1),
        Configuration("torch", "float32", 2),
        Configuration("torch", "bf16", 1),
        Configuration("torch", "bf16", 2),
        Configuration("reference", "float32", 1),
        Configuration("reference", "float32", 2),
        Configuration("reference", "int8", 1),
        Configuration("reference", "int8", 2),
    )


def test_bfloat16_needs_float32_weights() -> None:
    assert combined(["torch"], ["bf16"], (1,), ("float32",)) == (Configuration("torch", "bf16", 1),)
    with pytest.raises(InputError, match="nothing to time: bf16 cannot be had of int8 weights by torch"):
        combined(["torch"], ["bf16"], (1,), ("int8",))


def test_names_and_numbers_come_with_commas_or_as_lists() -> None:
    assert named(" torch , onnx,torch") == ("torch", "onnx")
    assert named(("onnx",)) == ("onnx",)
    assert counted("1, 2") == (1, 2)
    assert counted(3) == (3,)


@pytest.mark.parametrize("value", ["", "zero", "0", "1,-2", 0, ()])
def test_threads_are_numbers_from_one(value: str | int | tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="--threads must be numbers from 1 on"):
        counted(value)


def test_a_job_survives_its_journey() -> None:
    job = Job("/some/where.onnx", "onnx", "int8", 2, 3, (96, 128))
    assert Job.from_json(job.to_json()) == job


def test_configurations_are_named_in_words() -> None:
    assert str(Configuration("onnx", "int8", 1)) == "onnx int8, 1 thread"
    assert str(Configuration("torch", "bf16", 2)) == "torch bf16, 2 threads"
