"""PyTorch state dicts, pickled or in safetensors, read into layers. Nothing pickled is ever executed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import numpy as np

from mobilenets.errors import ConvertError, InputError
from mobilenets.image import Preprocess
from mobilenets.nn.convert.layers import Array, Layer, Norm, Source
from mobilenets.nn.convert.originals import SSDLITE_LAYOUT, TIMM_TENSORFLOW, coco_labels, original
from mobilenets.nn.convert.torch_layouts import LAYOUTS, ORDERS, recognised
from mobilenets.nn.download import digest
from mobilenets.nn.published import PUBLISHED, Published

if TYPE_CHECKING:
    from torch import Tensor

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "state_dict_ema", "model_ema", "ema")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
_NORM = {"weight", "bias", "running_mean", "running_var"}
_REMEDY = "in a program that you trust it in, torch.save(model.state_dict(), 'weights.pth') and convert that"


def read(path: Path, *, layout: str | None = None) -> Source:
    """Read a state dict: `.pth`, `.pt`, `.bin` (loaded with `weights_only`) or `.safetensors`.

    Args:
        path: the file.
        layout: whose conventions it follows, where its keys do not tell (:data:`torch_layouts.LAYOUTS`).

    Raises:
        ConvertError: damaged, needs unpickling, or holds something else than such a network; says which.
    """
    state = load_state(path)
    known = recognised(state, layout)
    if layout is not None and known is None:
        names = ", ".join(sorted({each.name for each in LAYOUTS}))
        raise ConvertError(f"{path}: its keys ({_some(state)}) are not those of layout {layout!r}; there are: {names}")
    layers = read_layers(state, str(path))
    if known is None:
        return Source("PyTorch state dict of unknown layout", layers, crop_fraction=0.875, familiar=False)
    if known.name == SSDLITE_LAYOUT:
        layers = _map_by_map(layers)
    entry = _published(path)
    tensorflow = None if layout or known.name != "timm" else _says_tensorflow(path, entry)
    as_tensorflow = recognised(state, "timm-tf")
    if tensorflow and as_tensorflow is not None:
        known = as_tensorflow
    doubtful = known.name == "timm" and as_tensorflow is not None and layout is None and tensorflow is None
    note = "timm's tf_ models have the same keys: if this is one of them, convert it with --layout timm-tf"
    source = Source(
        kind=f"{known.name} state dict",
        layers=layers,
        resolution=known.resolution,
        mean=known.mean,
        std=known.std,
        crop_fraction=known.crop_fraction,
        interpolation=known.interpolation,
        tables=known.tables,
        labels=coco_labels(known.name, state),
        reference=original(known.name, state),
        notes=(note,) if doubtful else (),
    )
    if entry is not None:
        kind = f"{entry.publisher} {entry.identifier}, by its checksum"
        return replace(source, kind=kind, preprocess=entry.preprocess, tables=(entry.arch,))
    return _with_timm_config(source, path) if known.name.startswith("timm") else source


def load_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by their keys, without wrappers (`state_dict`, `model`) and prefixes (`module.`).

    Raises:
        ConvertError: as :func:`read`.
    """
    from torch import Tensor

    found = _unpickled(path) if _is_pickle(path) else _safetensors(path)
    for _ in range(2):  # {"model": {"state_dict": ...}}
        inner = next((found[key] for key in _WRAPPERS if isinstance(found.get(key), Mapping)), None)
        found = found if inner is None else inner
    state = {key: value for key, value in found.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if not state:
        raise ConvertError(f"{path}: no state dict is in it (it holds {_some(found) or 'nothing'}): {_REMEDY}")
    shortened = True
    while shortened:
        shortened = False
        for prefix in _PREFIXES:
            if all(key.startswith(prefix) for key in state):
                state = {key.removeprefix(prefix): value for key, value in state.items()}
                shortened = True
    return state


def read_layers(state: Mapping[str, Tensor], where: str) -> tuple[Layer, ...]:
    """Group a state dict into weighted layers, each with the BatchNorm after it, in the order they run.

    Raises:
        ConvertError: a tensor that no such network has; names the first.
    """
    groups: dict[str, dict[str, Array]] = {}
    for key, tensor in state.items():
        module, _, leaf = key.rpartition(".")
        if leaf != "num_batches_tracked":
            groups.setdefault(module, {})[leaf] = _array(tensor, key, where)
    layers: list[Layer] = []
    strange: list[str] = []
    for module in in_order(groups):
        group = groups[module]
        weight = group.get("weight")
        if (
            group.keys() == _NORM
            and layers
            and layers[-1].norm is None
            and len(layers[-1].weight) == len(group["bias"])
        ):
            norm = Norm(group["weight"], group["bias"], group["running_mean"], group["running_var"])
            layers[-1] = replace(layers[-1], norm=norm)
        elif weight is not None and weight.ndim in (2, 4) and group.keys() <= {"weight", "bias"}:
            layers.append(Layer(module, weight, group.get("bias")))
        else:
            strange += [f"{module}.{leaf}".lstrip(".") for leaf in group]
    if strange or not layers:
        raise ConvertError(f"{where}: not a network of this family: it has {', '.join(strange[:3]) or 'no layers'}")
    return tuple(layers)


def _map_by_map(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """Return a detector's layers with its heads as our plans have them: boxes and scores of one map after another."""
    body = [layer for layer in layers if not layer.name.startswith("head.")]
    heads = [layer for layer in layers if layer.name.startswith("head.")]
    return (*body, *sorted(heads, key=lambda layer: int(layer.name.split(".")[3])))  # stable: boxes stay first


def in_order(modules: Mapping[str, Any]) -> list[str]:
    """Sort modules' names in the order they run, as far as :data:`torch_layouts.ORDERS` knows; else as they come.

    >>> in_order(dict.fromkeys(["classifier", "features.10", "features.2"]))
    ['features.2', 'features.10', 'classifier']
    """
    tree: dict[str, Any] = {}
    for module in modules:
        node = tree
        for part in module.split("."):
            node = node.setdefault(part, {})

    def walk(node: dict[str, Any], prefix: str) -> list[str]:
        found: list[str] = [prefix.rstrip(".")] if prefix.rstrip(".") in modules else []
        for child in _sorted_children(list(node)):
            found += walk(node[child], f"{prefix}{child}.")
        return found

    return walk(tree, "")


def _sorted_children(children: list[str]) -> list[str]:
    if all(child.isdecimal() for child in children):
        return sorted(children, key=int)
    for order in ORDERS:
        if set(children) <= set(order):
            return sorted(children, key=order.index)
    return children


def _published(path: Path) -> Published | None:
    """Return the published weights that this file is, byte for byte."""
    sha256 = digest(path)
    return next((each for each in PUBLISHED.values() if each.sha256 and sha256.startswith(each.sha256)), None)


def _says_tensorflow(path: Path, entry: Published | None) -> bool | None:
    """Say whether a timm file is of a network with TensorFlow's padding; None where nothing tells."""
    if entry is not None:
        return entry.padding == "same"
    model = _timm_config(path).get("architecture")
    return None if model is None else model in TIMM_TENSORFLOW


def _with_timm_config(source: Source, path: Path) -> Source:
    """Feed the network as timm's `config.json` says, which its hub keeps beside the weights."""
    try:
        fed = _timm_config(path)["pretrained_cfg"]
        _, height, width = fed["input_size"]
        preprocess = Preprocess(
            height=height,
            width=width,
            channels=source.in_channels,
            resize=math.floor(min(height, width) / fed["crop_pct"]),
            interpolation=fed["interpolation"],
            mean=tuple(fed["mean"]),
            std=tuple(fed["std"]),
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError, InputError):
        return source
    return replace(source, resolution=(height, width), preprocess=preprocess)


def _timm_config(path: Path) -> dict[str, Any]:
    config = path.parent / "config.json"
    try:
        document = json.loads(config.read_text(encoding="utf-8")) if config.stat().st_size < 1_000_000 else None
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _array(tensor: Tensor, key: str, where: str) -> Array:
    try:
        array: Array = tensor.detach().float().cpu().numpy()
    except (RuntimeError, TypeError, ValueError):
        raise ConvertError(f"{where}: {key} is no plain tensor (quantized or sparse?): {_REMEDY}") from None
    return np.ascontiguousarray(array)


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(4)
    return head[:4] == b"PK\x03\x04" or head[:1] == b"\x80"


def _safetensors(path: Path) -> Mapping[Any, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors: Mapping[Any, Any] = load(path.read_bytes())
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ConvertError(f"{path}: a damaged safetensors file ({error}): copy it again") from None
    return tensors


def _unpickled(path: Path) -> Mapping[Any, Any]:
    import torch

    if is_zipfile(path) and _is_torchscript(path):
        raise ConvertError(f"{path}: a TorchScript archive, a program rather than weights: {_REMEDY}")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001  a damaged or hostile pickle fails in whatever way it likes
        text = " ".join(str(error).split())
        forbidden = re.search(r"(?:Unsupported global: )?GLOBAL ([\w.]+)", text)
        if forbidden:
            raise ConvertError(
                f"{path}: refused, it would have to run code to be read ({forbidden[1]}): {_REMEDY}"
            ) from None
        raise ConvertError(f"{path}: cannot be read as PyTorch weights, damaged? ({text[:120]})") from None
    if not isinstance(found, Mapping):
        raise ConvertError(f"{path}: holds a {type(found).__name__}, not a state dict: {_REMEDY}")
    return found


def _is_torchscript(path: Path) -> bool:
    try:
        with ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (BadZipFile, OSError, ValueError):
        return False


def _some(names: Mapping[Any, Any]) -> str:
    return ", ".join(str(name) for name in list(names)[:3])
