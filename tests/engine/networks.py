"""Networks that nobody designed: random tables with random weights, in float32 and in int8."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from mobilenets.arch.mobilenet import (
    Activation,
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
from mobilenets.checkpoint import CLIPS, Card, Checkpoint, tensor_shapes
from mobilenets.engine.folding import folded
from mobilenets.engine.int8 import Granularity, int8_checkpoint
from mobilenets.engine.quantized import quantization
from mobilenets.engine.reference import arithmetic
from mobilenets.image import Preprocess

CLASSES = 16
"""So many that the largest answer is of the size that answers have, whatever the weights."""

KERNELS, STRIDES = st.sampled_from((3, 5, 7)), st.sampled_from((1, 2))
ACTIVATIONS: st.SearchStrategy[Activation] = st.sampled_from(("relu6", "relu", "hard_swish"))
GATES: st.SearchStrategy[Activation] = st.sampled_from(("hard_sigmoid", "sigmoid"))
CHANNELS = st.integers(1, 40) | st.sampled_from((48, 64, 96, 130))
SEPARABLE = st.builds(Separable, CHANNELS, st.just(1), STRIDES, KERNELS)
RESIDUAL = st.builds(
    InvertedResidual,
    st.sampled_from((1, 2, 3)),
    CHANNELS,
    st.sampled_from((1, 2)),
    STRIDES,
    KERNELS,
    st.booleans(),
    st.none() | CHANNELS,
)
BNECK = st.builds(Bneck, KERNELS, st.just(8), CHANNELS, st.booleans(), ACTIVATIONS, STRIDES, CHANNELS)
BLOCK = st.one_of(SEPARABLE, RESIDUAL, BNECK)
STEM = st.builds(Conv, CHANNELS, STRIDES, st.sampled_from((1, 3, 5, 7)))
HEAD = st.builds(Conv, CHANNELS, kernel=st.sampled_from((1, 1, 3)), activation=ACTIVATIONS)
ENDS = st.sampled_from(((Pool(), Classifier()), (Pool(), Dense(37, "hard_swish"), Classifier())))


@st.composite
def tables(draw: st.DrawFn, most_blocks: int = 3) -> Arch:
    """Draw a table: a stem, some blocks, a last convolution or none, and the classifier."""
    rows: tuple[Row, ...] = (draw(STEM), *draw(st.lists(BLOCK, min_size=1, max_size=most_blocks)))
    rows += (*draw(st.lists(HEAD, max_size=1)), *draw(ENDS))
    return Arch(
        name="random",
        paper="none",
        rows=rows,
        divisor=1,
        activation=draw(ACTIVATIONS),
        se=SqueezeExcite(0.25, divisor=1, gate=draw(GATES), before_activation=draw(st.booleans())),
        padding=draw(st.sampled_from(("symmetric", "same"))),
        bottleneck_activation=draw(st.none() | ACTIVATIONS),
        shortcut=draw(st.sampled_from(("bottleneck", "bottleneck", "expansion", "none"))),
        projection_shortcut=draw(st.booleans()),
        expands_always=draw(st.booleans()),
        small_image_strides=False,
    )


SIDES = st.tuples(st.integers(1, 24), st.integers(1, 24))


class Drawn(NamedTuple):
    """What :func:`random_checkpoint` makes a network of."""

    arch: Arch
    sides: tuple[int, int]
    channels: int
    seed: int


NETWORKS = st.builds(Drawn, tables(), SIDES, st.integers(1, 5), st.integers(0, 99))
"""Networks of all kinds; their pictures are from 1x1 to 24x24, of one to five channels."""


def random_checkpoint(
    arch: Arch, sides: tuple[int, int], channels: int = 3, seed: int = 0, *, width: float = 1.0
) -> Checkpoint:
    """Return a network whose weights keep values at their size from layer to layer, its BatchNorms folded."""
    random = np.random.default_rng(seed)
    preprocess = Preprocess(*sides, channels=channels, mean=(0.5,) * channels, std=(0.25,) * channels)
    labels = tuple(f"class {index}" for index in range(CLASSES))
    task = "classification" if arch.detector is None else "detection"
    card = Card(arch, width, sides, labels, preprocess, in_channels=channels, task=task, batch_norm="folded")
    tensors = {}
    for name, shape in tensor_shapes(card.plan).items():
        if len(shape) > 1:
            values = random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        elif name.endswith(("running_var", "norm.weight")):
            values = random.uniform(0.8, 1.2, shape)
        else:
            values = random.normal(0, 0.2, shape)
        tensors[name] = values.astype(np.float32)
    return Checkpoint(card, tensors)


def noise(
    checkpoint: Checkpoint, count: int, seed: int = 0, sides: tuple[int, int] | None = None
) -> npt.NDArray[np.float32]:
    """Return pictures of noise, each channel of another brightness and contrast, float32 (N, C, H, W)."""
    card, random = checkpoint.card, np.random.default_rng(seed)
    pixels = random.normal(size=(count, card.in_channels, *(sides or card.resolution)))
    brightness, contrast = random.normal(size=(2, count, card.in_channels, 1, 1))
    batch: npt.NDArray[np.float32] = (brightness + contrast * pixels).astype(np.float32)
    return batch


def quantized(
    checkpoint: Checkpoint, batch: npt.NDArray[np.float32], granularity: Granularity = "channel"
) -> Checkpoint:
    """Quantize by the smallest and largest value that some pictures lead to."""
    by = arithmetic(checkpoint)
    live: dict[str, npt.NDArray[Any]] = {"input": by.enter(batch)}
    ranges = {"input": quantization(live["input"].min(), live["input"].max())}
    for op in checkpoint.card.plan.ops:
        sources = [live[source] for source in op.sources]
        live[op.name] = out = by.compute(op, *sources)
        ranges[op.name] = quantization(float(out.min()), float(out.max()))
        if op.activation not in CLIPS:
            before = by.compute(replace(op, activation=None), *sources)
            ranges[f"{op.name}.before"] = quantization(float(before.min()), float(before.max()))
    return int8_checkpoint(checkpoint.card, folded(checkpoint), ranges, granularity)
