from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from mobilenets.arch import arch_named, plan
from mobilenets.arch.cost import cost, multiply_adds
from mobilenets.bench.configuration import FLOAT32, INT8, Job
from mobilenets.bench.operations import by_kind, moved_bytes, operation_times, operations_text
from mobilenets.bench.profile import PROFILERS, onnx_runs, owner, profile
from mobilenets.bench.subject import write
from mobilenets.bench.synthetic import quick_int8
from mobilenets.bench.worker import noise
from mobilenets.checkpoint import Checkpoint
from mobilenets.errors import InputError
from mobilenets.runtime import RUNTIMES, load

V2 = plan(arch_named("mobilenet_v2"))


def test_times_shares_and_work_add_up() -> None:
    ms = {op.name: 0.5 for op in V2.ops} | {"Reorder": 1.5}
    rows = operation_times(V2, ms, "float32", batch=2)
    assert [row.name for row in rows] == [*(op.name for op in V2.ops), "Reorder"]
    assert sum(row.ms for row in rows) == pytest.approx(sum(ms.values()))
    assert sum(row.share for row in rows) == pytest.approx(1)
    assert sum(row.multiply_adds for row in rows) == 2 * cost(V2).multiply_adds
    kinds = by_kind(rows)
    assert sum(row.ms for row in kinds) == pytest.approx(sum(ms.values()))
    assert sum(row.multiply_adds for row in kinds) == 2 * cost(V2).multiply_adds
    assert [row.ms for row in kinds] == sorted((row.ms for row in kinds), reverse=True)
    assert {row.name for row in kinds} == {
        *("stem", "expand", "depthwise", "project", "add", "head", "pool", "classifier", "runtime's own")
    }


def test_rates_are_work_over_time() -> None:
    op = V2.op("block_2_expand")
    row = next(each for each in operation_times(V2, {op.name: 2.0}, "float32") if each.name == op.name)
    assert row.giga_multiply_adds_per_second == pytest.approx(multiply_adds(op) / 0.002 / 1e9)
    assert row.gigabytes_per_second == pytest.approx(moved_bytes(op, V2, "float32") / 0.002 / 1e9)
    assert row.share == 1


def test_an_operation_computed_within_another_has_no_rate() -> None:
    rows = {row.name: row for row in operation_times(V2, {"stem": 1.0}, "float32")}
    assert rows["head"].ms == rows["head"].giga_multiply_adds_per_second == rows["head"].gigabytes_per_second == 0


def test_bytes_are_inputs_weights_and_output() -> None:
    expand, add = V2.op("block_2_expand"), V2.op("block_3_add")
    pixels = 112 * 112
    assert moved_bytes(expand, V2, "float32") == 4 * (16 * pixels + 16 * 96 + 96 * pixels)
    assert moved_bytes(expand, V2, "int8", batch=3) == 3 * (16 + 96) * pixels + 16 * 96
    assert moved_bytes(add, V2, "float32") == 4 * 3 * 24 * 56 * 56
    assert moved_bytes(V2.op("block_2_depthwise"), V2, "int8") == 96 * (pixels + pixels // 4 + 9)


def test_nodes_belong_to_the_operation_whose_name_they_bear() -> None:
    names = ["stem", "block_1_expand", "block_10_expand", "head", "head_2", "classifier"]
    assert owner("block_1_expand.before_nchwc", "Conv", names) == "block_1_expand"
    assert owner("block_10_expand/WithoutBiases", "Convolution", names) == "block_10_expand"
    assert owner("head_2.sum_token_3", "QLinearConv", names) == "head_2"
    assert owner("header", "Conv", names) == "Conv"
    assert owner("logits", "Gemm", names) == "classifier"
    assert owner("ReorderInput_token_9", "ReorderInput", names) == "ReorderInput"


def test_a_profile_is_split_into_runs() -> None:
    def event(name: str, microseconds: int, kind: str) -> dict[str, object]:
        return {"cat": "Node", "name": f"{name}_kernel_time", "dur": microseconds, "args": {"op_name": kind}}

    one_run = [event("stem.before", 30, "Conv"), event("stem", 5, "Clip"), event("Reorder_1", 2, "Reorder")]
    session = {"cat": "Session", "name": "model_run", "dur": 99, "args": {}}
    runs = onnx_runs([session, *one_run, session, *one_run], ["stem"])
    assert [dict(run) for run in runs] == [pytest.approx({"stem": 0.035, "Reorder": 0.002})] * 2


def test_the_table_has_a_line_for_each_operation() -> None:
    rows = operation_times(V2, {"stem": 1.0, "Reorder": 0.5}, "float32")
    text = operations_text(rows).splitlines()
    assert len(text) == len(rows) + 2
    assert text[2].split()[:4] == ["stem", "stem", "1.0000", "66.67"]
    assert text[-1].split()[-2:] == ["33.33", "%"]  # no work is known of what is the runtime's own
    assert operations_text(by_kind(rows), kinds=True).splitlines()[0].startswith("kind")


@pytest.mark.parametrize("precision", [FLOAT32, "bf16", INT8])
@pytest.mark.parametrize("runtime", list(PROFILERS))
def test_every_profiler_accounts_for_the_plan(
    runtime: str, precision: str, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    if not RUNTIMES[runtime].installed:
        pytest.skip(f"{RUNTIMES[runtime].package} is not installed")
    if (runtime, precision) in {("torch", INT8), ("onnx", "bf16")}:
        pytest.skip(f"{runtime} does not compute {precision} here")
    checkpoint = quick_int8(tiny_checkpoint) if precision == INT8 else tiny_checkpoint
    path = write(checkpoint, runtime, tmp_path / "tiny.safetensors")
    job = Job(str(path), runtime, precision, 1, 2, (32, 32))
    card = checkpoint.card
    ms = profile(job, card, noise(card, job, pictures=False), 2)
    assert min(ms.values()) >= 0
    convolutions = {op.name for op in card.plan.ops if op.kind in {"conv", "linear"}}
    assert len(convolutions - {name for name, value in ms.items() if value > 0}) <= len(convolutions) // 10


def test_a_runtime_without_a_profiler_says_so(tiny_checkpoint: Checkpoint) -> None:
    job = Job("tiny.tflite", "litert", FLOAT32, 1, 1, (32, 32))
    with pytest.raises(InputError, match="litert has no profiler"):
        profile(job, tiny_checkpoint.card, np.zeros((1, 3, 32, 32), np.float32), 1)


@pytest.mark.parametrize("runtime", ["torch", "onnx", "openvino", "litert"])
def test_files_made_for_timing_are_the_network(runtime: str, tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    if not RUNTIMES[runtime].installed:
        pytest.skip(f"{RUNTIMES[runtime].package} is not installed")
    batch = np.random.default_rng(3).normal(size=(2, 3, 32, 32)).astype(np.float32)
    path = write(tiny_checkpoint, runtime, tmp_path / "tiny.safetensors")
    with closing(load(path, runtime, 1)) as predictor, closing(load(tiny_checkpoint, "reference")) as reference:
        (expected,) = reference.run(batch)
        np.testing.assert_allclose(predictor.run(batch)[0], expected, atol=1e-4 * float(np.abs(expected).max()))
