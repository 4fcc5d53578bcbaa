"""The waist of the project: one self-describing file between making a model and using it.

A checkpoint is a single `.safetensors` file (no pickle). Its header key `mobilenets` holds the *card* as JSON: the
table of the network itself, labels, preprocessing, precision, metrics, recipe, and the sha256 of what it was made
from. Its tensors are named after the operations of the plan (`block_2_expand.weight`, `block_2_expand.norm.bias`).
A stored sample (`sample.input`, `sample.output`) lets any runtime prove that it computes the same function.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilenets.arch import Arch, Plan, arch_from_json, arch_to_json, plan
from mobilenets.errors import CheckpointError, InputError
from mobilenets.files import write_atomically
from mobilenets.image import Preprocess

if TYPE_CHECKING:
    import numpy as np

FORMAT = 1
"""The version of the file format; a file with a higher one is refused."""

KEY = "mobilenets"
CLIPS = (None, "relu", "relu6")
"""Activations that 8-bit saturation does by itself; the others need a table, and the values before it a scale."""
SAMPLE = "sample."
_MAX_HEADER_BYTES = 100_000_000  # what the safetensors format itself allows

Tensors = Mapping[str, "np.ndarray"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One measured number: what, on which data, over how many pictures."""

    name: str
    value: float
    dataset: str
    images: int


@dataclass(frozen=True, slots=True)
class Card:
    """Everything that running, judging or continuing a model needs, but its weights."""

    arch: Arch
    width: float
    resolution: tuple[int, int]  # (height, width) in pixels
    labels: tuple[str, ...]
    preprocess: Preprocess
    in_channels: int = 3
    task: str = "classification"  # or "detection": the table has heads, and the labels do not count the background
    precision: str = "float32"
    batch_norm: str = "trained"  # "folded": statistics are the identity, the scale sits in the convolution
    metrics: tuple[Metric, ...] = ()
    recipe: Mapping[str, Any] | None = None
    origin: str | None = None  # where weights made elsewhere came from
    parent: str | None = None  # sha256 of the file this one was made from
    notes: tuple[str, ...] = ()
    quantization: Mapping[str, Any] | None = None  # how an int8 network was made of a float one

    @property
    def plan(self) -> Plan:
        """The operations of this model, every shape known."""
        return plan(
            self.arch,
            width=self.width,
            resolution=self.resolution,
            classes=len(self.labels),
            in_channels=self.in_channels,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the card as JSON-serialisable data."""
        return {
            "format": FORMAT,
            "task": self.task,
            "arch": arch_to_json(self.arch),
            "width": self.width,
            "resolution": list(self.resolution),
            "in_channels": self.in_channels,
            "labels": list(self.labels),
            "preprocess": self.preprocess.to_json(),
            "precision": self.precision,
            "batch_norm": self.batch_norm,
            "metrics": [
                {"name": m.name, "value": m.value, "dataset": m.dataset, "images": m.images} for m in self.metrics
            ],
            "recipe": None if self.recipe is None else dict(self.recipe),
            "origin": self.origin,
            "parent": self.parent,
            "notes": list(self.notes),
            "quantization": None if self.quantization is None else dict(self.quantization),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Card:
        """Return the card that :meth:`to_json` wrote.

        Raises:
            InputError: something is missing, or of the wrong type.
        """
        try:
            height, width = (int(side) for side in data["resolution"])
            labels, notes, recipe = data["labels"], data["notes"], data["recipe"]
            quantization = data.get("quantization")  # files of the first version have none
            if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
                raise InputError("labels must be a list of names")
            if not isinstance(notes, list) or not all(
                each is None or isinstance(each, dict) for each in (recipe, quantization)
            ):
                raise InputError("notes must be a list, recipe and quantization objects")
            for name in ("task", "precision", "batch_norm", "origin", "parent"):
                if not isinstance(data[name], str) and (data[name] is not None or name not in {"origin", "parent"}):
                    raise InputError(f"{name} must be text, not {data[name]!r}")
            card = cls(
                arch=arch_from_json(data["arch"]),
                width=float(data["width"]),
                resolution=(height, width),
                labels=tuple(labels),
                preprocess=Preprocess.from_json(data["preprocess"]),
                in_channels=int(data["in_channels"]),
                task=data["task"],
                precision=data["precision"],
                batch_norm=data["batch_norm"],
                metrics=tuple(
                    Metric(str(m["name"]), float(m["value"]), str(m["dataset"]), int(m["images"]))
                    for m in data["metrics"]
                ),
                recipe=recipe,
                origin=data["origin"],
                parent=data["parent"],
                notes=tuple(str(note) for note in notes),
                quantization=quantization,
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(f"the card is incomplete: {type(error).__name__}: {error}") from None
        if (card.task == "detection") != (card.arch.detector is not None):
            raise InputError(f"its task is {card.task}, and its table is that of another")
        if card.in_channels != card.preprocess.channels:
            raise InputError(f"pictures of {card.preprocess.channels} channels for a network of {card.in_channels}")
        return card


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A card and its weights. `tensors` maps names to arrays; `sha256` is of the file it was read from, if any."""

    card: Card
    tensors: Tensors
    sha256: str | None = None
    sample: tuple[np.ndarray, np.ndarray] | None = field(default=None)
    """A picture, uint8 (H, W, C) as :func:`mobilenets.image.fit` leaves it, and the network's answer to it, float32.

    That is the logits, (classes,); of a detector all that its heads say, flat: see :func:`answer_size`.
    """

    def child(self) -> Card:
        """Return a card for something made from this checkpoint: the same, its parent noted."""
        return replace(self.card, parent=self.sha256)


def tensor_shapes(layout: Plan) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every float32 tensor that a model with this plan has.

    Convolutions are (out, in / groups, kernel, kernel), fully connected layers (out, in), all else (out,).
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for op in layout.ops:
        if op.kind not in ("conv", "linear"):
            continue
        c = op.out[0]
        inputs = op.source_shape[0] // op.groups
        shapes[f"{op.name}.weight"] = (c, inputs) if op.kind == "linear" else (c, inputs, op.kernel, op.kernel)
        if op.bias:
            shapes[f"{op.name}.bias"] = (c,)
        if op.batch_norm:
            for name in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{op.name}.norm.{name}"] = (c,)
    return shapes


def answer_size(layout: Plan) -> int:
    """Return how many numbers a network answers one picture of the plan's resolution with.

    They are the values of the plan's outputs, each (C, H, W) flattened, one behind the other.
    """
    return sum(prod(layout.op(name).out) for name in layout.outputs)


def tensor_specs(card: Card) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return dtype and shape of every tensor of a model, by name.

    An int8 model has its BatchNorms folded. Beside int8 weights and int32 biases it has `NAME.scale` and
    `NAME.zero_point` for the input and every operation's output, `NAME.before.scale` and `NAME.before.zero_point` where
    the activation is no mere clip, and `NAME.weight_scale`: one for each output channel, or a single one.

    Raises:
        CheckpointError: a precision that is neither float32 nor int8.
    """
    if card.precision == "float32":
        return {name: ("float32", shape) for name, shape in tensor_shapes(card.plan).items()}
    if card.precision != "int8":
        raise CheckpointError(f"a checkpoint is float32 or int8, not {card.precision}")
    per_channel = (card.quantization or {}).get("granularity") != "tensor"
    specs: dict[str, tuple[str, tuple[int, ...]]] = {}
    shapes = tensor_shapes(card.plan)
    outputs = ["input"]
    for op in card.plan.ops:
        outputs.append(op.name)
        if op.activation not in CLIPS:
            outputs.append(f"{op.name}.before")
        if f"{op.name}.weight" in shapes:
            specs[f"{op.name}.weight"] = ("int8", shapes[f"{op.name}.weight"])
            specs[f"{op.name}.bias"] = ("int32", (op.out[0],))
            specs[f"{op.name}.weight_scale"] = ("float32", (op.out[0] if per_channel else 1,))
    for name in outputs:
        specs[f"{name}.scale"], specs[f"{name}.zero_point"] = ("float32", (1,)), ("uint8", (1,))
    return specs


def save(checkpoint: Checkpoint, path: str | os.PathLike[str]) -> Path:
    """Write a checkpoint, atomically: a reader sees the old file or the new one, never half of one.

    Returns:
        The path written.

    Raises:
        CheckpointError: the tensors do not fit the card's table, or the disk refuses.
    """
    import numpy as np
    from safetensors.numpy import save as to_bytes

    path = Path(path)
    _check_tensors(checkpoint.card, checkpoint.tensors, path)
    tensors = {name: np.ascontiguousarray(array) for name, array in checkpoint.tensors.items()}
    if checkpoint.sample is not None:
        _check_sample(checkpoint.card, checkpoint.sample, path)
        tensors[f"{SAMPLE}input"] = np.ascontiguousarray(checkpoint.sample[0])
        tensors[f"{SAMPLE}output"] = np.ascontiguousarray(checkpoint.sample[1])
    card = checkpoint.card.to_json()
    text = json.dumps(card | {"sha256": _digest(card, tensors)}, sort_keys=True)
    try:
        return write_atomically(path, to_bytes(tensors, metadata={KEY: text}))
    except InputError as error:
        raise CheckpointError(str(error)) from None


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint and verify it: format, checksum, and that its tensors are those of its table.

    Raises:
        CheckpointError: missing, truncated, tampered with, foreign, or from a newer version; says which.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load as from_bytes

    path = Path(path)
    data = _read(path)
    card = _card_json(path, data)
    try:
        tensors = from_bytes(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged ({error}): copy it again or make it anew") from None
    stated = card.pop("sha256", None)
    if stated != _digest(card, tensors):
        raise CheckpointError(f"{path}: it is not as it was written (checksum): get a fresh copy")
    try:
        parsed = Card.from_json(card)
        picture, output = tensors.pop(f"{SAMPLE}input", None), tensors.pop(f"{SAMPLE}output", None)
        sample = None if picture is None or output is None else (picture, output)
        _check_tensors(parsed, tensors, path)
        if sample is not None:
            _check_sample(parsed, sample, path)
    except InputError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return Checkpoint(parsed, tensors, hashlib.sha256(data).hexdigest(), sample)


def read_card(path: str | os.PathLike[str]) -> Card:
    """Read only the card, without the weights and without verifying them."""
    path = Path(path)
    try:
        return Card.from_json(_card_json(path, _read_header(path), header_only=True))
    except InputError as error:
        raise CheckpointError(f"{path}: {error}") from None


def is_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Say whether a file was written as a checkpoint, by this version or another; its weights may still be damaged.

    Raises:
        CheckpointError: the file cannot be read.
    """
    data = _read_header(Path(path))
    return f'"{KEY}"'.encode() in data[: 8 + _header_bytes(data)]


def _card_json(path: Path, data: bytes, *, header_only: bool = False) -> dict[str, Any]:
    """Return the card's JSON out of a safetensors file's bytes, with an error for each way it can be absent."""
    length = _header_bytes(data)
    if not length:
        raise CheckpointError(
            f"{path}: not a checkpoint (no safetensors header); `mobilenets convert` reads other formats"
        )
    if len(data) < 8 + length:
        raise CheckpointError(f"{path}: truncated inside its header ({len(data):,} bytes): copy it again")
    try:
        header = json.loads(data[8 : 8 + length])
        ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
        text = header.get("__metadata__", {}).get(KEY)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError):
        raise CheckpointError(f"{path}: its header is damaged: copy it again") from None
    whole = 8 + length + max(ends, default=0)
    if not header_only and len(data) < whole:
        raise CheckpointError(f"{path}: truncated ({len(data):,} of {whole:,} bytes): copy it again")
    if text is None:
        raise CheckpointError(f"{path}: safetensors, but not a mobilenets checkpoint: use `mobilenets convert`")
    try:
        card = json.loads(text)
        version = card["format"]
    except (ValueError, KeyError, TypeError, RecursionError):
        card, version = None, None
    if not isinstance(card, dict) or not isinstance(version, int) or version < 1:
        raise CheckpointError(f"{path}: its card is damaged: copy it again")
    if version > FORMAT:
        raise CheckpointError(
            f"{path}: written by a newer mobilenets (format {version}, this one reads up to {FORMAT}): "
            "pip install -U mobilenets"
        )
    return card


def _header_bytes(data: bytes) -> int:
    """Return how long the header is that a file beginning with `data` announces; 0 if it is no safetensors file."""
    length = int.from_bytes(data[:8], "little")
    return length if len(data) > 8 and 2 <= length <= _MAX_HEADER_BYTES and data[8:9] == b"{" else 0


def _read_header(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            head = file.read(9)
            return head + file.read(max(0, _header_bytes(head) - 1))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None


def _check_tensors(card: Card, tensors: Tensors, path: Path) -> None:
    """Raise CheckpointError unless the tensors are exactly those of the card's table, in shape and type."""
    expected = tensor_specs(card)
    missing = [name for name in expected if name not in tensors]
    extra = [name for name in tensors if name not in expected]
    if missing or extra:
        what = f"misses {missing[0]}" if missing else f"has an unknown tensor {extra[0]}"
        raise CheckpointError(f"{path}: {what}: its weights are not those of {card.arch.name} as its card describes it")
    for name, (dtype, shape) in expected.items():
        if tensors[name].shape != shape or tensors[name].dtype != dtype:
            found = f"{tensors[name].dtype} {tensors[name].shape}"
            raise CheckpointError(f"{path}: {name} is {found} where {card.arch.name} needs {dtype} {shape}")


def _check_sample(card: Card, sample: tuple[np.ndarray, np.ndarray], path: Path) -> None:
    """Raise CheckpointError unless the stored sample is a picture of the card's size and an answer to it."""
    fed = card.preprocess
    expected = (("uint8", (fed.height, fed.width, fed.channels)), ("float32", (answer_size(card.plan),)))
    for array, (dtype, shape) in zip(sample, expected, strict=True):
        if array.dtype != dtype or array.shape != shape:
            raise CheckpointError(f"{path}: its sample is {array.dtype} {array.shape} and not {dtype} {shape}")


def _digest(card: Mapping[str, Any], tensors: Tensors) -> str:
    """Return a sha256 over the card, and over names, shapes and bytes of the tensors in the order of their names."""
    digest = hashlib.sha256(json.dumps(json.loads(json.dumps(card)), sort_keys=True).encode())
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"\n{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
