"""What the facts of a network's layers mean for somebody who wants to ship it."""

from __future__ import annotations

from collections.abc import Sequence

from mobilenets.diagnose.layers import LayerFacts, Spread
from mobilenets.text import percent

MANY_BITS = 3.0
"""Bits lost by a median channel from which on a layer is named: 5 of 8 left, 32 steps."""
MUCH_SATURATION = 0.05
"""Share of values at 6 from which on a layer is named."""
MUCH_WIDENING = 0.5
"""Bits that dead channels cost the living ones from which on a layer is named."""
NAMED = 3
"""Layers named in a sentence; the table and the JSON have all."""


def noteworthy(layer: LayerFacts) -> bool:
    """Say whether a layer deserves a line."""
    spreads = (layer.weights, layer.activations)
    return bool(
        layer.dead
        or layer.constant
        or layer.dead_kernels
        or layer.duplicates
        or (layer.saturated or 0) >= MUCH_SATURATION
        or any(spread is not None and spread.bits_lost >= MANY_BITS for spread in spreads)
    )


def advise(layers: Sequence[LayerFacts], model: str, data: str | None) -> list[str]:
    """Return sentences, the most useful first; one where nothing stands out."""
    found = [
        *_on_weights(layers),
        *_on_widening(layers, model),
        *_on_activations(layers),
        *_on_dead_kernels(layers),
        *_on_dead_channels(layers, model, data),
        *_on_saturation(layers),
        *_on_duplicates(layers),
    ]
    if not found:
        found = ["nothing stands out: no layer is dead, saturated, duplicate, or of channels that differ much in range"]
    if data is None:
        found.append(
            "what is said of outputs is so on drawn pictures: give DATA for the pictures the model is made for"
        )
    return found


def _on_weights(layers: Sequence[LayerFacts]) -> list[str]:
    listed = _listed_bits([(layer.weights, layer) for layer in layers])
    cost = "with one 8-bit scale for a whole layer's weights, the median channel loses bits"
    return [f"{cost}: {listed}: quantize with a scale for each channel (--granularity channel)"] if listed else []


def _on_widening(layers: Sequence[LayerFacts], model: str) -> list[str]:
    named = _largest([(layer.bits_lost_to_dead, layer) for layer in layers], MUCH_WIDENING)
    listed = _listed([f"{bits:.1f} bits in {layer.name}" for bits, layer in named])
    cost = "the widest weights belong to channels that are dead, and cost the living ones"
    return [f"{cost} {listed}: mobilenets prune {model} --dead, and quantize what is left"] if listed else []


def _on_activations(layers: Sequence[LayerFacts]) -> list[str]:
    listed = _listed_bits([(layer.activations, layer) for layer in layers])
    cost = "outputs always share one 8-bit scale a layer, and the median channel loses bits"
    remedy = "equalize the channels (--equalize exact), or train in 8 bits (--method qat)"
    return [f"{cost}: {listed}: {remedy}"] if listed else []


def _listed_bits(spreads: Sequence[tuple[Spread | None, LayerFacts]]) -> str:
    """Name the layers that lose many bits; "" if there are none."""
    named = _largest([(spread.bits_lost, layer) for spread, layer in spreads if spread is not None], MANY_BITS)
    return _listed([f"{bits:.1f} in {layer.name}" for bits, layer in named])


def _on_dead_kernels(layers: Sequence[LayerFacts]) -> list[str]:
    listed = _listed(
        [f"{len(each.dead_kernels)} of {each.channels} in {each.name}" for each in layers if each.dead_kernels]
    )
    return (
        [f"filters that have lost their weights: {listed}: they give a constant, whatever they see"] if listed else []
    )


def _on_dead_channels(layers: Sequence[LayerFacts], model: str, data: str | None) -> list[str]:
    dead = sum(len(layer.dead) + len(layer.constant) for layer in layers)
    going = sum(layer.removable for layer in layers)
    lines = []
    if going:
        lines.append(
            f"{going:,} channels provably say nothing: mobilenets prune {model} --dead takes them out for free"
        )
    if dead > going:
        lines.append(
            f"{dead:,} channels never change on these pictures, beyond what is proved: mobilenets prune {model} --dead "
            f"--silent --data {data or 'DATA'} takes them out and measures what that costs"
        )
    return lines


def _on_saturation(layers: Sequence[LayerFacts]) -> list[str]:
    named = _largest([(layer.saturated or 0.0, layer) for layer in layers], MUCH_SATURATION)
    listed = _listed([f"{percent(share)} in {layer.name}" for share, layer in named])
    return [f"ReLU6 clips; of their values are at 6: {listed}"] if listed else []


def _on_duplicates(layers: Sequence[LayerFacts]) -> list[str]:
    named = [layer for layer in layers if layer.duplicates]
    count = sum(len(layer.duplicates) for layer in named)
    listed = _listed([layer.name for layer in named])
    what = "filters are multiples of another in their layer" if count != 1 else "filter is a multiple of another"
    return [f"{count:,} {what} ({listed}): the network is wider there than what it has learned"] if named else []


def _largest(values: Sequence[tuple[float, LayerFacts]], least: float) -> list[tuple[float, LayerFacts]]:
    """Return what is at least `least`, the largest first."""
    return sorted((each for each in values if each[0] >= least), key=lambda each: -each[0])


def _listed(items: Sequence[str]) -> str:
    """Name the first few, and say how many more layers there are."""
    more = len(items) - NAMED
    rest = f" and {more} more layer{'s' if more > 1 else ''}" if more > 0 else ""
    return ", ".join(items[:NAMED]) + rest
