"""A state dict's own implementation, where it is installed: the proof that a conversion computes the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from mobilenets.nn.convert.identify import WIDTHS
from mobilenets.nn.convert.layers import Array

if TYPE_CHECKING:
    from torch import Tensor, nn

_TIMM = (
    "mobilenetv1_100",
    "mobilenetv1_125",
    "mobilenetv2_035",
    "mobilenetv2_050",
    "mobilenetv2_075",
    "mobilenetv2_100",
    "mobilenetv2_140",
    "mobilenetv3_large_075",
    "mobilenetv3_large_100",
    "mobilenetv3_small_050",
    "mobilenetv3_small_075",
    "mobilenetv3_small_100",
    "mnasnet_050",
    "mnasnet_075",
    "mnasnet_100",
    "mnasnet_140",
    "semnasnet_050",
    "semnasnet_075",
    "semnasnet_100",
    "semnasnet_140",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "efficientnet_lite3",
    "efficientnet_lite4",
)


def original(layout: str, state: Mapping[str, Tensor]) -> Callable[[Array], Array] | None:
    """Build the network that `state` is of with the library it came from, and return a function that runs it.

    None where that library is not installed, or has no model of exactly these keys and shapes.
    """
    import torch

    shapes = {key: tensor.shape for key, tensor in state.items()}
    for build in _candidates(layout, state):
        with torch.device("meta"):
            drawn = build()
        if {key: tensor.shape for key, tensor in drawn.state_dict().items()} == shapes:
            model = build().eval()
            filled = model.state_dict()  # it has the version that MNASNet asks for
            filled.update(state)
            model.load_state_dict(filled)
            return _runner(model)
    return None


def _runner(model: nn.Module) -> Callable[[Array], Array]:
    import torch

    def run(batch: Array) -> Array:
        with torch.inference_mode():
            logits: Array = model(torch.from_numpy(batch)).numpy()
        return logits

    return run


def _candidates(layout: str, state: Mapping[str, Tensor]) -> Iterator[Callable[[], nn.Module]]:
    if layout == "torchvision":
        yield from _torchvision(state)
    elif layout in {"timm", "timm-tf"}:
        yield from _timm(state, tensorflow=layout == "timm-tf")


def _torchvision(state: Mapping[str, Tensor]) -> Iterator[Callable[[], nn.Module]]:
    try:
        from torchvision import models
    except ImportError:
        return
    last = max(key for key in state if key.startswith("classifier.") and key.endswith(".weight"))
    classes = len(state[last])
    if "features.1.conv.0.0.weight" in state:
        makers: list[tuple[Any, str]] = [(models.mobilenet_v2, "width_mult")]
    elif "features.1.block.0.0.weight" in state:
        makers = [(models.mobilenet_v3_large, "width_mult"), (models.mobilenet_v3_small, "width_mult")]
    else:
        makers = [(models.MNASNet, "alpha")]
    for make, width in makers:
        for value in WIDTHS:
            yield partial(make, num_classes=classes, **{width: value})


def _timm(state: Mapping[str, Tensor], *, tensorflow: bool) -> Iterator[Callable[[], nn.Module]]:
    try:
        import timm
    except ImportError:
        return
    from mobilenets.nn.convert.torch_layouts import TIMM_TF

    classes, inputs = len(state["classifier.weight"]), state["conv_stem.weight"].shape[1]
    for name in sorted(TIMM_TF) if tensorflow else _TIMM:
        yield partial(timm.create_model, name, num_classes=classes, in_chans=inputs)
