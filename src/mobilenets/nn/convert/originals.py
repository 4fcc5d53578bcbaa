"""A state dict's own implementation, where it is installed: the proof that a conversion computes the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

from mobilenets.arch import ARCHITECTURES, Arch, plan
from mobilenets.nn.convert.identify import WIDTHS, shapes
from mobilenets.nn.convert.layers import Array, bare_shape
from mobilenets.nn.convert.torch_layouts import SSDLITE_BOXES, SSDLITE_SCORES, V3, absolute

if TYPE_CHECKING:
    from torch import Tensor, nn

Build = Callable[[], "nn.Module"]

_TIMM: tuple[tuple[str, str, float], ...] = (
    ("mobilenetv1_100", "mobilenet_v1", 1.0),
    ("mobilenetv1_125", "mobilenet_v1", 1.25),
    ("mobilenetv2_035", "mobilenet_v2", 0.35),
    ("mobilenetv2_050", "mobilenet_v2", 0.5),
    ("mobilenetv2_075", "mobilenet_v2", 0.75),
    ("mobilenetv2_100", "mobilenet_v2", 1.0),
    ("mobilenetv2_140", "mobilenet_v2", 1.4),
    ("mobilenetv3_large_075", "mobilenet_v3_large", 0.75),
    ("mobilenetv3_large_100", "mobilenet_v3_large", 1.0),
    ("mobilenetv3_small_050", "mobilenet_v3_small", 0.5),
    ("mobilenetv3_small_075", "mobilenet_v3_small", 0.75),
    ("mobilenetv3_small_100", "mobilenet_v3_small", 1.0),
    ("mnasnet_050", "mnasnet_b1", 0.5),
    ("mnasnet_075", "mnasnet_b1", 0.75),
    ("mnasnet_100", "mnasnet_b1", 1.0),
    ("mnasnet_140", "mnasnet_b1", 1.4),
    ("semnasnet_050", "mnasnet_a1", 0.5),
    ("semnasnet_075", "mnasnet_a1", 0.75),
    ("semnasnet_100", "mnasnet_a1", 1.0),
    ("semnasnet_140", "mnasnet_a1", 1.4),
    *((f"efficientnet_lite{number}", f"efficientnet_lite{number}", 1.0) for number in range(5)),
)
_TIMM_TENSORFLOW: tuple[tuple[str, str, float], ...] = (
    ("tf_mobilenetv3_large_075", "mobilenet_v3_large", 0.75),
    ("tf_mobilenetv3_large_100", "mobilenet_v3_large", 1.0),
    ("tf_mobilenetv3_large_minimal_100", "mobilenet_v3_large_minimalistic", 1.0),
    ("tf_mobilenetv3_small_075", "mobilenet_v3_small", 0.75),
    ("tf_mobilenetv3_small_100", "mobilenet_v3_small", 1.0),
    ("tf_mobilenetv3_small_minimal_100", "mobilenet_v3_small_minimalistic", 1.0),
    *((f"tf_efficientnet_lite{number}", f"efficientnet_lite{number}", 1.0) for number in range(5)),
)

TIMM_TENSORFLOW = frozenset(name for name, _, _ in _TIMM_TENSORFLOW)
"""timm's models with TensorFlow's padding and eps. Their keys and shapes are those of the models without "tf_"."""


SSDLITE_LAYOUT = "torchvision-ssdlite"
SSDLITE_ANCHORS = 6  # a place on every map


def original(layout: str, state: Mapping[str, Tensor]) -> Callable[[Array], Array] | None:
    """Build the network that `state` is of with the library it came from, and return a function that runs it.

    None where that library is not installed, or has no model of exactly these keys and shapes.
    """
    wanted = {key: tensor.shape for key, tensor in state.items()}
    for build in _candidates(layout, state):
        model = build().eval()
        filled = model.state_dict()  # it carries the version that MNASNet asks for
        if {key: tensor.shape for key, tensor in filled.items()} == wanted:
            filled.update(state)
            model.load_state_dict(filled)
            return _detector_runner(model) if layout == SSDLITE_LAYOUT else _runner(model)
    return None


def coco_labels(layout: str, state: Mapping[str, Tensor]) -> tuple[str, ...] | None:
    """Return COCO's names for the 90 numbers it gives to classes, where a state dict is a detector of as many."""
    scores = state.get(f"{SSDLITE_SCORES}.0.1.weight")
    if layout != SSDLITE_LAYOUT or scores is None:
        return None
    try:
        from torchvision.models.detection import SSDLite320_MobileNet_V3_Large_Weights as Weights
    except ImportError:
        return None
    names = tuple(Weights.COCO_V1.meta["categories"])
    return names[1:] if len(scores) == SSDLITE_ANCHORS * len(names) else None


def _detector_runner(model: nn.Module) -> Callable[[Array], Array]:
    """Return what runs torchvision's backbone and heads: (N, C, H, W) to the values of their last layers, flat."""
    import torch

    def run(batch: Array) -> Array:
        heads = (model.get_submodule(SSDLITE_BOXES), model.get_submodule(SSDLITE_SCORES))
        with torch.inference_mode():
            maps = model.get_submodule("backbone")(torch.from_numpy(batch)).values()
            values = [head.get_submodule(str(index))(each) for index, each in enumerate(maps) for head in heads]
            answers: Array = torch.cat([value.flatten(1) for value in values], 1).numpy()
        return answers

    return run


def _runner(model: nn.Module) -> Callable[[Array], Array]:
    import torch

    def run(batch: Array) -> Array:
        with torch.inference_mode():
            logits: Array = model(torch.from_numpy(batch)).numpy()
        return logits

    return run


def _candidates(layout: str, state: Mapping[str, Tensor]) -> Iterator[Build]:
    """Yield the models of a library whose weights have the shapes of these, in whatever order."""
    wanted = sorted(bare_shape(tensor.shape) for tensor in state.values() if tensor.ndim in (2, 4))
    if layout == SSDLITE_LAYOUT:
        yield from _ssdlite(state)
        return
    last = max((key for key in state if key.startswith("classifier.") and key.endswith("weight")), default="")
    stem = next((key for key in ("conv_stem.weight", "features.0.0.weight", "layers.0.weight") if key in state), "")
    if not last or not stem:
        return
    classes, channels = len(state[last]), state[stem].shape[1]

    def fits(arch: Arch, width: float) -> bool:
        return sorted(shapes(plan(arch, width=width, classes=classes, in_channels=channels))) == wanted

    if layout == "torchvision":
        yield from _torchvision(state, fits, classes)
    elif layout in {"timm", "timm-tf"}:
        yield from _timm(_TIMM_TENSORFLOW if layout == "timm-tf" else _TIMM, fits, classes, channels)


def _torchvision(state: Mapping[str, Tensor], fits: Callable[[Arch, float], bool], classes: int) -> Iterator[Build]:
    try:
        from torchvision import models
    except ImportError:
        return
    for width in WIDTHS:
        if "features.1.conv.0.0.weight" in state and fits(ARCHITECTURES["mobilenet_v2"], width):
            yield partial(models.mobilenet_v2, num_classes=classes, width_mult=width)
        if "layers.8.0.layers.0.weight" in state and fits(ARCHITECTURES["mnasnet_b1"], width):
            yield partial(models.MNASNet, width, num_classes=classes)
        if "features.1.block.0.0.weight" in state:
            for arch, make in zip(V3, (models.mobilenet_v3_large, models.mobilenet_v3_small), strict=True):
                if fits(absolute(arch, width), 1.0):
                    yield partial(make, num_classes=classes, width_mult=width)


def _ssdlite(state: Mapping[str, Tensor]) -> Iterator[Build]:
    """Yield torchvision's detector with the reduced tail, and with the whole one of a backbone for ImageNet."""
    try:
        from torchvision.models import detection, mobilenet_v3_large
        from torchvision.models.detection import ssdlite
    except ImportError:
        return
    classes = len(state[f"{SSDLITE_SCORES}.0.1.weight"]) // SSDLITE_ANCHORS
    build = partial(detection.ssdlite320_mobilenet_v3_large, weights=None, weights_backbone=None, num_classes=classes)
    yield build

    def whole() -> nn.Module:
        from torch.nn import BatchNorm2d

        norm = partial(BatchNorm2d, eps=1e-3, momentum=0.03)
        model: nn.Module = build()
        features = mobilenet_v3_large(norm_layer=norm).features
        backbone = ssdlite.SSDLiteFeatureExtractorMobileNet(features, 13, norm)  # 13: the stage of stride 32 begins
        channels = [len(state[f"{SSDLITE_BOXES}.{index}.0.0.weight"]) for index in range(6)]
        model.backbone = backbone
        model.head = ssdlite.SSDLiteHead(channels, [SSDLITE_ANCHORS] * 6, classes, norm)
        return model

    yield whole


def _timm(
    table: tuple[tuple[str, str, float], ...], fits: Callable[[Arch, float], bool], classes: int, channels: int
) -> Iterator[Build]:
    try:
        import timm
    except ImportError:
        return
    for name, arch, width in table:
        if fits(ARCHITECTURES[arch], width):
            yield partial(timm.create_model, name, num_classes=classes, in_chans=channels)
