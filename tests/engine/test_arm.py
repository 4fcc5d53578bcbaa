"""Int8 kernels on 64-bit ARM, where this machine is another: compiled across, run by qemu, and the reference's bits."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from mobilenets.checkpoint import Checkpoint
from mobilenets.engine import reference, target
from mobilenets.engine.int8_kernels import AnyKernel, Int8Fused
from mobilenets.engine.int8_lowering import lower_int8
from mobilenets.engine.library import DRIVER, compile_all, compiler, names
from mobilenets.engine.lowering import INPUT, Network, View, resized
from mobilenets.engine.target import Machine, Target

Networks = Callable[..., Checkpoint]
PROCESSORS = {(): "cortex-a53", ("dotprod",): "cortex-a76", ("dotprod", "i8mm"): "max"}
"""Instructions, and a processor that has no others."""
DOTS = {("dotprod",): 0x4E809400, ("dotprod", "i8mm"): 0x4E809C00}
"""SDOT and USDOT on whole vectors, by the bits that are no register's."""
REGISTERS = 0x001F03FF

MAIN = """\
#include <stdio.h>
#include <stdlib.h>

#include "int8.h"

void *halide_malloc(void *context, size_t size) { return (void)context, aligned_alloc(64, (size + 63) / 64 * 64); }
void halide_free(void *context, void *memory) { (void)context, free(memory); }

static void *block(size_t size) { return aligned_alloc(128, (size + 383) / 128 * 128); }

"""


def assembled(network: Network, symbols: Mapping[AnyKernel, str]) -> tuple[str, bytes]:
    """Return a program that makes the calls one after another, and the weights and places it reads."""
    values = {name: number for number, name in enumerate(network.sizes)}
    weights = bytearray()
    lines = [f"static void *value[{len(values)}];", "static unsigned char *weights;"]
    lines += [f"int {name}_argv(void **arguments);" for name in dict.fromkeys(symbols.values())]
    calls = []
    for number, call in enumerate(network.calls):
        pointers = []
        for place, argument in enumerate((*call.arguments, call.out)):
            if isinstance(argument, View):
                extents, strides, host = argument.extents, argument.strides, f"value[{values[argument.name]}]"
            else:
                weights += bytes(-len(weights) % 128)
                host = f"weights + {len(weights)}"
                weights += np.ascontiguousarray(argument).tobytes()
                extents = argument.shape[::-1]
                strides = tuple(int(np.prod(extents[:at])) for at in range(len(extents)))
            dimensions = ", ".join(
                f"{{0, {extent}, {stride}, 0}}" for extent, stride in zip(extents, strides, strict=True)
            )
            name = f"{number}_{place}"
            calls.append(f"    static const dimension_t d{name}[] = {{{dimensions}}};")
            calls.append(f"    buffer_t b{name} = {{.host = {host}, .dimensions = {len(extents)}, .dim = d{name}}};")
            pointers.append(f"&b{name}")
        calls.append(f"    void *a{number}[] = {{&context, {', '.join(pointers)}}};")
        calls.append(f"    if ({symbols[call.kernel]}_argv(a{number})) return {number % 100 + 2};")
    lines += ["int main(void) {", "    void *context = NULL;", '    FILE *file = fopen("weights.bin", "rb");']
    lines += [f"    weights = block({len(weights)});", f"    if (!fread(weights, {len(weights)}, 1, file)) return 1;"]
    lines += [f"    value[{number}] = block({4 * network.sizes[name]});" for name, number in values.items()]
    lines += [f"    if (!fread(value[{values[INPUT]}], {4 * network.sizes[INPUT]}, 1, file)) return 1;", *calls]
    for view in network.outputs:
        lines.append(f"    fwrite(value[{values[view.name]}], {4 * int(np.prod(view.extents))}, 1, stdout);")
    return MAIN + "\n".join([*lines, "    return 0;", "}", ""]), bytes(weights)


def across(features: tuple[str, ...]) -> Target:
    if find_spec("ziglang") is None:
        pytest.skip("ziglang is not installed: nothing is compiled for other processors")
    return Target("arm-64-linux-no_asserts", "aarch64-linux-musl", Machine(4, 32), features)


def compiled(symbols: Mapping[AnyKernel, str], goal: Target, folder: Path) -> list[str]:
    """Return the kernels' object files, without the driver, whose threads are not wanted."""
    compile_all(dict(symbols), goal, folder)
    return [str(folder / "objects" / f"{name}.o") for name in dict.fromkeys(symbols.values())]


@pytest.mark.slow
@pytest.mark.parametrize("features", PROCESSORS, ids="+".join)
@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small"])
def test_arm_has_the_references_bits(
    name: str, features: tuple[str, ...], random_int8_network: Networks, tmp_path: Path
) -> None:
    goal = across(features)
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("qemu-aarch64 is not installed: kernels for ARM cannot be run here")
    checkpoint = random_int8_network(name)
    layout = resized(checkpoint.card.plan, (41, 38))
    network = lower_int8(layout, checkpoint, goal.machine)
    symbols = names([call.kernel for call in network.calls], goal)
    objects = compiled(symbols, goal, tmp_path)
    batch = np.random.default_rng(3).normal(size=(1, *layout.input_shape)).astype(np.float32)
    source, weights = assembled(network, symbols)
    (tmp_path / "main.c").write_text(source)
    (tmp_path / "weights.bin").write_bytes(weights + batch.tobytes())
    subprocess.run(
        [*compiler(goal), "-static", f"-I{DRIVER.parent}", "-o", "run", "main.c", *objects], cwd=tmp_path, check=True
    )
    command = ("qemu-aarch64", "-cpu", PROCESSORS[features], "./run")
    found = np.frombuffer(subprocess.run(command, cwd=tmp_path, check=True, capture_output=True).stdout, np.float32)
    begin = 0
    for view, wanted in zip(
        network.outputs, reference.outputs(layout, reference.arithmetic(checkpoint), batch), strict=True
    ):
        channels, width, height = view.extents
        size = channels * width * height
        value = found[begin : begin + size].reshape(1, height, width, channels).transpose(0, 3, 1, 2)
        begin += size
        assert len(np.unique(wanted)) > 3
        np.testing.assert_array_equal(value[:, : wanted.shape[1]].reshape(wanted.shape), wanted)
    assert begin == len(found)


@pytest.mark.parametrize("features", PROCESSORS, ids="+".join)
def test_arm_multiplies_bytes_by_what_it_has(
    features: tuple[str, ...], random_int8_network: Networks, tmp_path: Path
) -> None:
    goal, checkpoint = across(features), random_int8_network("mobilenet_v2")
    calls = lower_int8(checkpoint.card.plan, checkpoint, goal.machine).calls
    kernel = next(call.kernel for call in calls if isinstance(call.kernel, Int8Fused) and call.kernel.last)
    (made,) = compiled(names([kernel], goal), goal, tmp_path)
    raw = Path(made).read_bytes()
    instructions = np.frombuffer(raw[: len(raw) // 4 * 4], "<u4") & np.uint32(~REGISTERS & 0xFFFFFFFF)
    assert {bits: int((instructions == bits).sum()) > 0 for bits in DOTS.values()} == {
        bits: features == wants for wants, bits in DOTS.items()
    }


@pytest.mark.parametrize("found", [("asimd",), ("asimd", "asimddp"), ("asimd", "asimddp", "i8mm")], ids="+".join)
def test_this_machine_is_asked_what_it_has(found: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(target, "vector_instructions", lambda: found)
    host = target.host.__wrapped__()
    assert host.features == tuple(PROCESSORS)[len(found) - 1]
    assert host.flags == (("-mcpu=generic", "-mcpu=generic+dotprod", "-mcpu=generic+dotprod+i8mm")[len(found) - 1],)
