"""The `diagnose` verb: what is dead, saturated, duplicate or hard to quantize in a network, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilenets.errors import CheckpointError, InputError, needing
from mobilenets.files import need_folder
from mobilenets.text import percent, printable, table

if TYPE_CHECKING:
    from mobilenets.diagnose.layers import LayerFacts, Spread


@dataclass(frozen=True)
class DiagnoseResult:
    """Hold the facts of every layer, and what to do about them; in print the layers worth a look.

    `measured_on` says which pictures the outputs are of, and `images` how many.
    """

    model: str
    architecture: str
    measured_on: str
    images: int
    layers: tuple[LayerFacts, ...]
    advice: tuple[str, ...]
    problems: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    @property
    def totals(self) -> dict[str, int]:
        """Channels in all layers, and how many of them are what."""
        return {
            "channels": sum(layer.channels for layer in self.layers),
            "dead": sum(len(layer.dead) for layer in self.layers),
            "constant": sum(len(layer.constant) for layer in self.layers),
            "dead_kernels": sum(len(layer.dead_kernels) for layer in self.layers),
            "depthwise_channels": sum(layer.channels for layer in self.layers if layer.kind == "depthwise"),
            "dead_depthwise_kernels": sum(len(each.dead_kernels) for each in self.layers if each.kind == "depthwise"),
            "duplicates": sum(len(layer.duplicates) for layer in self.layers),
            "removable": sum(layer.removable for layer in self.layers),
        }

    def __str__(self) -> str:
        from mobilenets.diagnose.advice import noteworthy

        shown = [layer for layer in self.layers if noteworthy(layer)]
        totals = self.totals
        first = f"{printable(self.model)}: {printable(self.architecture)}, outputs on {printable(self.measured_on)}"
        second = (
            f"{totals['dead']:,} of {totals['channels']:,} channels are dead and {totals['constant']:,} constant; "
            f"{totals['dead_depthwise_kernels']:,} of {totals['depthwise_channels']:,} depthwise kernels lost their "
            "weights"
        )
        parts = [f"{first}\n{second}"]
        if shown:
            parts.append(table(HEADER, [cells(layer) for layer in shown], left=2))
            left_out = f"; {len(self.layers) - len(shown)} layers without any of these are left out"
            parts.append(f"bits: what one 8-bit scale for the layer costs the median channel{left_out}")
        parts.append("\n".join(f"- {printable(line)}" for line in self.advice))
        if self.problems:
            parts.append("\n".join(f"problem: {printable(line)}" for line in self.problems))
        if self.files:
            parts.append("\n".join(f"saved {printable(str(path))}" for path in self.files))
        return "\n\n".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Return everything: every layer, not only the noteworthy ones."""
        return {
            "model": self.model,
            "architecture": self.architecture,
            "measured_on": self.measured_on,
            "images": self.images,
            "totals": self.totals,
            "layers": [layer.to_json() for layer in self.layers],
            "advice": list(self.advice),
            "problems": list(self.problems),
            "files": [str(path) for path in self.files],
        }


HEADER = (
    "layer",
    "kind",
    "channels",
    "dead",
    "constant",
    "no weights",
    "duplicates",
    "at 6",
    "weight bits",
    "output bits",
)


def cells(layer: LayerFacts) -> list[str]:
    """Return a layer's line of the table under `HEADER`."""
    counts = (layer.dead, layer.constant, layer.dead_kernels, layer.duplicates)
    return [
        layer.name,
        layer.kind,
        f"{layer.channels:,}",
        *(f"{len(each):,}" if each else "" for each in counts),
        "" if layer.saturated is None else percent(layer.saturated),
        _bits(layer.weights),
        _bits(layer.activations),
    ]


def _bits(spread: Spread | None) -> str:
    return "" if spread is None else f"{spread.bits_lost:.1f}"


def diagnose(
    model: str,
    data: str | None = None,
    *,
    images: int = 128,
    root: Path | None = None,
    seed: int = 0,
    out: Path | None = None,
) -> DiagnoseResult:
    """Look for what is dead, saturated, duplicate or hard to quantize in a network, layer by layer.

    Dead channels never leave zero on the pictures; dead kernels have next to no weights; bits are what one 8-bit scale
    for a whole layer costs its median channel. Without DATA the outputs are those on drawn pictures: noise and shapes.

    Args:
        model: A float32 checkpoint, or the name of published weights such as efficientnet_lite0.
        data: A folder, a CSV, an .npz, or a known name: pictures like those the model is for. Labels do not matter.
        images: Look at this many of the pictures.
        root: Where mnist, fashion_mnist or cifar10 are.
        seed: Decides which pictures are looked at.
        out: A folder to write diagnose.html and diagnose.png to.

    Raises:
        MobileNetsError: one line that names the file or the flag, and the remedy.
    """
    from mobilenets import runtime

    with needing("train"):
        from mobilenets.compress import sample
        from mobilenets.compress.activity import observe
        from mobilenets.diagnose.advice import advise
        from mobilenets.diagnose.layers import examine

    if images < 1:
        raise InputError(f"--images must be 1 or more, not {images}")
    checkpoint = runtime.resolve(model)
    card = checkpoint.card
    if out is not None:
        need_folder(out)
    if card.precision != "float32":
        raise CheckpointError(f"{model}: {card.precision}: diagnose the float32 checkpoint that it was made from")
    if data is None:
        seen = sample.drawn(card.preprocess)
    else:
        seen = sample.taken(data, card.preprocess, count=images, seed=seed, root=root)
    layers = examine(checkpoint, observe(checkpoint, seen.pictures))
    result = DiagnoseResult(
        model=model,
        architecture=f"{card.arch.name}, width {card.width:g}, {card.resolution[0]}x{card.resolution[1]}",
        measured_on=seen.what,
        images=len(seen.pictures),
        layers=layers,
        advice=tuple(advise(layers, model, data)),
        problems=seen.problems,
    )
    if out is None:
        return result
    from mobilenets.diagnose.picture import write

    return replace(result, files=write(out, result))
