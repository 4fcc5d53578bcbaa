"""What others have published about how long these networks take, to be printed beside what is measured here.

Facts with their sources, nothing computed: another processor, another runtime, another year. A table is of one network,
one precision and one device; its keys are the width multiplier and the side of the picture. One picture at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_SLIM = "tensorflow/models research/slim/nets/mobilenet/README.md @0ba83cf0"
_HOSTED = "tensorflow/tensorflow tensorflow/lite/g3doc/guide/hosted_models.md @0406598a"
_TIMM_I7 = "huggingface/pytorch-image-models results/benchmark-infer-fp32-nchw-pt240-cpu-i7_12700h-dynamo.csv @aa4b5850"
_TIMM_I9 = "huggingface/pytorch-image-models results/benchmark-infer-fp32-nchw-pt240-cpu-i9_10940x-dynamo.csv @aa4b5850"
_ST = "STMicroelectronics/stm32ai-modelzoo image_classification/mobilenetv2/README.md @6f10965e"
_PADDLE = "PaddlePaddle/PaddleClas docs/en/models/Mobile_en.md @18840f1f"
_ESPRESSIF = "components.espressif.com espressif/imagenet_cls 0.2.0"
_PAPER = "arXiv:1801.04381v4, Table 4"


@dataclass(frozen=True, slots=True)
class Published:
    """One published time."""

    ms: float
    precision: str
    device: str
    source: str


@dataclass(frozen=True, slots=True)
class Series:
    """The times of one table."""

    arch: str
    precision: str
    device: str
    source: str
    ms: Mapping[tuple[float, int], float]


SERIES = (
    Series(
        "mobilenet_v2",
        "float32",
        "Pixel 1 CPU",
        _SLIM,
        {
            (1.4, 224): 138,
            (1.3, 224): 123,
            (1.0, 224): 73.8,
            (1.0, 192): 55.1,
            (1.0, 160): 40.2,
            (1.0, 128): 27.6,
            (1.0, 96): 17.6,
            (0.75, 224): 55.8,
            (0.75, 192): 41.6,
            (0.75, 160): 30.4,
            (0.75, 128): 21.9,
            (0.75, 96): 14.2,
            (0.5, 224): 28.7,
            (0.5, 192): 21.1,
            (0.5, 160): 14.9,
            (0.5, 128): 9.9,
            (0.5, 96): 6.4,
            (0.35, 224): 19.7,
            (0.35, 192): 14.6,
            (0.35, 160): 10.5,
            (0.35, 128): 6.9,
            (0.35, 96): 4.5,
        },
    ),
    Series("mobilenet_v3_large", "float32", "Pixel 1, one large core", _SLIM, {(1.0, 224): 51.2, (0.75, 224): 39.8}),
    Series("mobilenet_v3_large", "float32", "Pixel 2, one large core", _SLIM, {(1.0, 224): 61, (0.75, 224): 48}),
    Series("mobilenet_v3_large", "float32", "Pixel 3, one large core", _SLIM, {(1.0, 224): 44, (0.75, 224): 34}),
    Series("mobilenet_v3_large", "int8", "Pixel 1, one large core", _SLIM, {(1.0, 224): 44}),
    Series("mobilenet_v3_large", "int8", "Pixel 2, one large core", _SLIM, {(1.0, 224): 42.5}),
    Series("mobilenet_v3_large", "int8", "Pixel 3, one large core", _SLIM, {(1.0, 224): 32}),
    Series("mobilenet_v3_small", "float32", "Pixel 1, one large core", _SLIM, {(1.0, 224): 15.8, (0.75, 224): 12.8}),
    Series("mobilenet_v3_small", "float32", "Pixel 2, one large core", _SLIM, {(1.0, 224): 19.4, (0.75, 224): 15.9}),
    Series("mobilenet_v3_small", "float32", "Pixel 3, one large core", _SLIM, {(1.0, 224): 14.4, (0.75, 224): 11.6}),
    Series("mobilenet_v3_small", "int8", "Pixel 1, one large core", _SLIM, {(1.0, 224): 15.5}),
    Series("mobilenet_v3_small", "int8", "Pixel 2, one large core", _SLIM, {(1.0, 224): 15}),
    Series("mobilenet_v3_small", "int8", "Pixel 3, one large core", _SLIM, {(1.0, 224): 10.7}),
    Series(
        "mobilenet_v1",
        "int8",
        "Pixel 3 CPU, 4 threads",
        _HOSTED,
        {
            (0.25, 128): 0.8,
            (0.25, 160): 1.3,
            (0.25, 192): 1.8,
            (0.25, 224): 2.3,
            (0.5, 128): 1.7,
            (0.5, 160): 2.6,
            (0.5, 192): 3.6,
            (0.5, 224): 4.7,
            (0.75, 128): 3.1,
            (0.75, 160): 4.7,
            (0.75, 192): 6.4,
            (0.75, 224): 8.5,
            (1.0, 128): 4.8,
            (1.0, 160): 7.3,
            (1.0, 192): 9.9,
            (1.0, 224): 13,
        },
    ),
    Series("mobilenet_v2", "int8", "Pixel 3 CPU, 4 threads", _HOSTED, {(1.0, 224): 12}),
    Series("mobilenet_v2", "float32", "Pixel 3 CPU, 4 threads", _HOSTED, {(1.0, 224): 17.5}),
    Series("mobilenet_v1", "float32", "Pixel 3 CPU, 4 threads", _HOSTED, {(1.0, 224): 24}),
    Series(
        "mobilenet_v3_small",
        "float32",
        "i7-12700H, torch 2.4 compiled",
        _TIMM_I7,
        {(0.75, 224): 2.524, (0.5, 224): 2.586, (1.0, 224): 2.654},
    ),
    Series(
        "mobilenet_v2",
        "float32",
        "i7-12700H, torch 2.4 compiled",
        _TIMM_I7,
        {(0.35, 224): 3.076, (0.5, 224): 4.499, (0.75, 224): 5.061, (1.0, 224): 6.591, (1.4, 224): 9.115},
    ),
    Series(
        "mnasnet_b1",
        "float32",
        "i7-12700H, torch 2.4 compiled",
        _TIMM_I7,
        {(0.5, 224): 3.939, (0.75, 224): 5.884, (1.0, 224): 6.774, (1.4, 224): 9.594},
    ),
    Series(
        "mnasnet_a1",
        "float32",
        "i7-12700H, torch 2.4 compiled",
        _TIMM_I7,
        {(0.5, 224): 4.443, (0.75, 224): 6.473, (1.0, 224): 6.744, (1.4, 224): 10.907},
    ),
    Series(
        "mobilenet_v3_large",
        "float32",
        "i7-12700H, torch 2.4 compiled",
        _TIMM_I7,
        {(0.75, 224): 5.763, (1.0, 256): 7.067, (1.0, 224): 7.377},
    ),
    Series(
        "mobilenet_v1",
        "float32",
        "i7-12700H, torch 2.4 compiled",
        _TIMM_I7,
        {(1.0, 224): 6.388, (1.25, 224): 8.591, (1.0, 256): 9.161, (1.25, 256): 11.231},
    ),
    Series("efficientnet_lite0", "float32", "i7-12700H, torch 2.4 compiled", _TIMM_I7, {(1.0, 224): 7.99}),
    Series(
        "mobilenet_v3_small",
        "float32",
        "i9-10940X, torch 2.4 compiled",
        _TIMM_I9,
        {(0.5, 224): 3.207, (0.75, 224): 3.937, (1.0, 224): 3.991},
    ),
    Series(
        "mobilenet_v2",
        "float32",
        "i9-10940X, torch 2.4 compiled",
        _TIMM_I9,
        {(0.35, 224): 3.783, (0.5, 224): 4.205, (0.75, 224): 5.015, (1.0, 224): 5.299, (1.4, 224): 6.112},
    ),
    Series(
        "mobilenet_v1",
        "float32",
        "i9-10940X, torch 2.4 compiled",
        _TIMM_I9,
        {(1.0, 224): 4.013, (1.25, 224): 4.215, (1.25, 256): 4.827, (1.0, 256): 5.146},
    ),
    Series(
        "mnasnet_b1",
        "float32",
        "i9-10940X, torch 2.4 compiled",
        _TIMM_I9,
        {(0.5, 224): 4.515, (0.75, 224): 5.078, (1.0, 224): 5.415, (1.4, 224): 6.794},
    ),
    Series(
        "mobilenet_v3_large",
        "float32",
        "i9-10940X, torch 2.4 compiled",
        _TIMM_I9,
        {(0.75, 224): 5.234, (1.0, 224): 5.659},
    ),
    Series(
        "mnasnet_a1",
        "float32",
        "i9-10940X, torch 2.4 compiled",
        _TIMM_I9,
        {(0.5, 224): 5.5, (0.75, 224): 6.784, (1.0, 224): 6.821, (1.4, 224): 7.404},
    ),
    Series("efficientnet_lite0", "float32", "i9-10940X, torch 2.4 compiled", _TIMM_I9, {(1.0, 224): 5.499}),
    Series(
        "mobilenet_v2",
        "int8",
        "STM32H747I at 400 MHz",
        _ST,
        {(0.35, 128): 116.13, (0.35, 224): 313.92, (1.0, 224): 1106.64, (1.4, 224): 2010.66},
    ),
    Series(
        "mobilenet_v2",
        "int8",
        "STM32N6570 NPU",
        _ST,
        {(0.35, 128): 6.35, (0.35, 224): 9.14, (1.0, 224): 21.08, (1.4, 224): 35.34},
    ),
    Series(
        "mobilenet_v1",
        "float32",
        "Snapdragon 855",
        _PADDLE,
        {(0.25, 224): 3.22, (0.5, 224): 9.58, (0.75, 224): 19.436, (1.0, 224): 32.523},
    ),
    Series(
        "mobilenet_v2",
        "float32",
        "Snapdragon 855",
        _PADDLE,
        {
            (0.25, 224): 3.799,
            (0.5, 224): 8.702,
            (0.75, 224): 15.531,
            (1.0, 224): 23.318,
            (1.5, 224): 45.624,
            (2.0, 224): 74.292,
        },
    ),
    Series(
        "mobilenet_v3_large",
        "float32",
        "Snapdragon 855",
        _PADDLE,
        {(0.35, 224): 5.137, (0.5, 224): 7.493, (0.75, 224): 13.565, (1.0, 224): 19.308, (1.25, 224): 28.218},
    ),
    Series(
        "mobilenet_v3_small",
        "float32",
        "Snapdragon 855",
        _PADDLE,
        {(0.35, 224): 2.635, (0.5, 224): 3.352, (0.75, 224): 5.284, (1.0, 224): 6.546, (1.25, 224): 9.275},
    ),
    Series("mobilenet_v2", "int8", "ESP32-S3", _ESPRESSIF, {(1.0, 224): 1296.04}),
    Series("mobilenet_v2", "int8", "ESP32-P4", _ESPRESSIF, {(1.0, 224): 351.661}),
    Series("mobilenet_v1", "float32", "Pixel 1, one large core", _PAPER, {(1.0, 224): 113}),
    Series("mobilenet_v2", "float32", "Pixel 1, one large core", _PAPER, {(1.0, 224): 75, (1.4, 224): 143}),
)


def published(arch: str, width: float, resolution: tuple[int, int]) -> tuple[Published, ...]:
    """Return what is published of a network at a width and a resolution (height, width): often nothing.

    >>> [each.ms for each in published("mobilenet_v2", 1.0, (224, 224)) if each.device == "Pixel 1 CPU"]
    [73.8]
    """
    height, side = resolution
    return tuple(
        Published(each.ms[width, side], each.precision, each.device, each.source)
        for each in SERIES
        if each.arch == arch and height == side and (width, side) in each.ms
    )
