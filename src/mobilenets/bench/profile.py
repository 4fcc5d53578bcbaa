"""Where the time goes, operation by operation, as each runtime's own profiler says it.

Runtimes fuse operations and add conversions of layout. Every time is booked under the operation of the plan whose name
its node bears; what bears none (reorderings, mostly) is booked under the name of its kind.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from mobilenets.arch import Plan
from mobilenets.arch.cost import multiply_adds
from mobilenets.bench.configuration import BFLOAT16, INT8, Job
from mobilenets.bench.timing import middle_mean
from mobilenets.checkpoint import Card
from mobilenets.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from mobilenets.nn.network import Network

Run = dict[str, float]
"""Milliseconds by node, of one run."""

WARM_RUNS = 5
"""Runs that are not counted, at the beginning."""


def profile(job: Job, card: Card, batch: NDArray[Any], count: int) -> dict[str, float]:
    """Return the milliseconds of every operation by name, over `count` runs.

    Raises:
        InputError: the runtime has no profiler that can be reached from Python.
    """
    if job.runtime not in PROFILERS:
        raise InputError(f"{job.runtime} has no profiler that Python can reach")
    runs = PROFILERS[job.runtime](job, [op.name for op in card.plan.ops], batch, WARM_RUNS + count)[WARM_RUNS:]
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: middle_mean([run.get(name, 0.0) for run in runs]) for name in names}


def owner(node: str, kind: str, names: Sequence[str]) -> str:
    """Return the operation that a runtime's node is of, by its name; the node's kind where it is of none.

    >>> owner("block_1_expand.before_nchwc", "Conv", ["block_1", "block_1_expand"])
    'block_1_expand'
    >>> owner("ReorderOutput_token_7", "ReorderOutput", ["stem"])
    'ReorderOutput'
    """
    if node.split("_token_", maxsplit=1)[0] == "logits":  # what a float file calls the last operation's value
        return names[-1]
    found = [name for name in names if re.match(rf"{re.escape(name)}(?![0-9A-Za-z])", node)]
    return max(found, key=len) if found else kind


def _torch(job: Job, names: Sequence[str], batch: NDArray[Any], count: int) -> list[Run]:
    """Look at the clock after every operation."""
    import torch

    from mobilenets import checkpoint
    from mobilenets.bench.bfloat16 import bfloat16_network, float32_network

    del names
    torch.set_num_threads(job.threads)
    loaded = checkpoint.load(job.path)
    network: Network = bfloat16_network(loaded) if job.precision == BFLOAT16 else float32_network(loaded)
    pictures = torch.from_numpy(batch).contiguous(memory_format=torch.channels_last)
    pictures = pictures.bfloat16() if job.precision == BFLOAT16 else pictures
    with torch.inference_mode():
        return [_torch_run(network, pictures) for _ in range(count)]


def _torch_run(network: Network, pictures: Tensor) -> Run:
    """Compute a network operation by operation; maps are kept to the end, which costs memory and no time."""
    live = {"input": pictures}
    run: Run = {}
    for op in network.plan.ops:
        sources = [live[name] for name in op.sources]
        begun = time.perf_counter()
        live[op.name] = network.compute(op, *sources)
        run[op.name] = 1000 * (time.perf_counter() - begun)
    return run


def _onnx(job: Job, names: Sequence[str], batch: NDArray[Any], count: int) -> list[Run]:
    """Read the profile that ONNX Runtime writes: one event for each node and run, in order."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = job.threads
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.log_severity_level = 3  # errors
        session = onnxruntime.InferenceSession(job.path, options, providers=["CPUExecutionProvider"])
        source = session.get_inputs()[0].name
        for _ in range(count):
            session.run(None, {source: batch})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return onnx_runs(events, names)


def onnx_runs(events: Iterable[dict[str, Any]], names: Sequence[str]) -> list[Run]:
    """Return the runs in an ONNX Runtime profile: a new one begins when a node comes for the second time."""
    ending = "_kernel_time"
    runs: list[Run] = []
    seen: set[str] = set()
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith(ending):
            continue
        node = event["name"].removesuffix(ending)
        if not runs or node in seen:
            runs.append(defaultdict(float))
            seen = set()
        seen.add(node)
        runs[-1][owner(node, event["args"].get("op_name", node), names)] += event["dur"] / 1000  # microseconds
    return runs


def _openvino(job: Job, names: Sequence[str], batch: NDArray[Any], count: int) -> list[Run]:
    """Ask OpenVINO after every run."""
    from mobilenets.formats.openvino_file import core

    model = core().read_model(job.path)
    if len(batch) == 1:  # as the runtime's predictor does
        model.reshape(list(batch.shape))
    hint = "bf16" if job.precision == BFLOAT16 else "f32"
    settings = {"PERF_COUNT": True, "INFERENCE_NUM_THREADS": job.threads, "INFERENCE_PRECISION_HINT": hint}
    request = core().compile_model(model, "CPU", settings).create_infer_request()
    runs: list[Run] = []
    for _ in range(count):
        request.infer({0: batch})
        run: Run = defaultdict(float)
        for node in request.profiling_info:
            if node.real_time:
                reorders = node.node_type == "Reorder"
                name = node.node_type if reorders else owner(node.node_name, node.node_type, names)
                run[name] += 1000 * node.real_time.total_seconds()
        runs.append(run)
    return runs


def _engine(job: Job, names: Sequence[str], batch: NDArray[Any], count: int) -> list[Run]:
    """Ask the engine what its calls took; one that computes several operations is shared out by their work."""
    from mobilenets import checkpoint
    from mobilenets.engine.choices import choices
    from mobilenets.engine.folding import folded
    from mobilenets.engine.int8_lowering import lower_int8
    from mobilenets.engine.library import host
    from mobilenets.engine.lowering import lower
    from mobilenets.engine.program import Program

    del names
    loaded = checkpoint.load(job.path)
    layout, target = loaded.card.plan, host()
    if loaded.card.precision == INT8:
        network = lower_int8(layout, loaded, target.machine, choices(target.machine))
    else:
        network = lower(layout, folded(loaded), target.machine, choices(target.machine))
    program = Program(network, target, job.threads)
    try:
        times = program.step_times(batch, count) / 1e6
    finally:
        program.close()
    shares = call_shares(layout, [call.out.name for call in network.calls])
    runs: list[Run] = []
    for row in times.tolist():
        run: Run = defaultdict(float)
        for ms, parts in zip(row, shares, strict=True):
            for name, share in parts.items():
                run[name] += share * ms
        runs.append(run)
    return runs


def call_shares(layout: Plan, written: Sequence[str]) -> list[dict[str, float]]:
    """Return for each call of the engine the operations that it computes, and their shares of its work.

    Args:
        layout: the network.
        written: the value that each call writes; a call computes what comes between the one before and that.
    """
    places = {op.name: index for index, op in enumerate(layout.ops)}
    found: list[dict[str, float]] = []
    begin = 0
    for name in written:
        end = places.get(name, begin - 1) + 1
        ops = layout.ops[begin:end] or layout.ops[max(0, end - 1) : max(1, end)]
        begin = max(begin, end)
        work = [multiply_adds(op) + prod(op.out) for op in ops]
        found.append({op.name: each / sum(work) for op, each in zip(ops, work, strict=True)})
    return found


PROFILERS: dict[str, Callable[[Job, Sequence[str], NDArray[Any], int], list[Run]]] = {
    "torch": _torch,
    "onnx": _onnx,
    "openvino": _openvino,
    "engine": _engine,
}
"""LiteRT has a profiler, but its Python package does not hand it out."""
