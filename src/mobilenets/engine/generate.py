"""Kernels in Halide: what each computes (its algorithm), and in what order (its schedule)."""

from __future__ import annotations

from mobilenets.engine import generate_plain as plain
from mobilenets.engine.forms import Generated
from mobilenets.engine.generate_fused import fused
from mobilenets.engine.kernels import Combine, Convolution, Fused, Interleave, Kernel, Linear, Mean, Pointwise
from mobilenets.engine.schedules import Machine


def generate(kernel: Kernel, machine: Machine) -> Generated:
    """Return the pipeline of a kernel."""
    match kernel:
        case Fused():
            return fused(kernel, machine)
        case Convolution():
            return plain.convolution(kernel, machine)
        case Pointwise():
            return plain.mean_of_pointwise(kernel, machine) if kernel.mean else plain.pointwise(kernel, machine)
        case Linear():
            return plain.linear(kernel, machine)
        case Mean():
            return plain.mean(kernel, machine)
        case Combine():
            return plain.combine(kernel, machine)
        case Interleave():
            return plain.interleave(kernel, machine)
