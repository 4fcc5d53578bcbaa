"""PyTorch state dicts, pickled or in safetensors, read into layers. Nothing pickled is ever executed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import numpy as np

from mobilenets.errors import ConvertError
from mobilenets.nn.convert.layers import Array, Layer, Norm, Source
from mobilenets.nn.convert.originals import original
from mobilenets.nn.convert.torch_layouts import LAYOUTS, ORDERS, TIMM_TF, Layout, recognised

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
        return Source("PyTorch state dict of unknown layout", layers)
    stated = _stated_by_timm(path) if known.name == "timm" and layout is None else Stated()
    if stated.tensorflow:
        known = recognised(state, "timm-tf") or known
    return Source(
        kind=f"{known.name} state dict",
        layers=layers,
        resolution=known.resolution,
        mean=stated.mean or known.mean,
        std=stated.std or known.std,
        crop_fraction=stated.crop_fraction or known.crop_fraction,
        interpolation=stated.interpolation or known.interpolation,
        tables=known.tables,
        reference=original(known.name, state),
        notes=_notes(known, stated),
    )


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


@dataclass(frozen=True, slots=True)
class Stated:
    """What timm's own `config.json` beside the file, or the file's published name, says about it."""

    tensorflow: bool = False
    by: str = ""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop_fraction: float | None = None
    interpolation: str | None = None


def _stated_by_timm(path: Path) -> Stated:
    config = path.parent / "config.json"
    try:
        document = json.loads(config.read_text(encoding="utf-8")) if config.stat().st_size < 1_000_000 else {}
        fed = document["pretrained_cfg"]
        return Stated(
            tensorflow=document["architecture"] in TIMM_TF,
            by="config.json beside it",
            mean=tuple(float(value) for value in fed["mean"]),
            std=tuple(float(value) for value in fed["std"]),
            crop_fraction=float(fed["crop_pct"]),
            interpolation=str(fed["interpolation"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        published = re.split(r"[-.]", path.name)[0]  # tf_mobilenetv3_large_100-427764d5.pth
        return Stated(tensorflow=True, by="its name") if published in TIMM_TF else Stated()


def _notes(layout: Layout, stated: Stated) -> tuple[str, ...]:
    if stated.by:
        return (f"padding, eps and normalization of {layout.name}, according to {stated.by}",)
    if layout.name == "timm":
        return ("timm's tf_ models have the same keys: if this is one of them, convert it with --layout timm-tf",)
    return ()


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
