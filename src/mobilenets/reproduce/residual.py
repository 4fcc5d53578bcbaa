"""V2's inverted residual beside ResNet's bottleneck: the same ends, and the same cost."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

from mobilenets.draw import FAINT, INK, RIGHT, WRONG, figure_style, to_png
from mobilenets.reproduce.outcome import Reproduction, Row, Settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIDE, CHANNELS = 28, 64
"""The ends compared: 28x28x64."""
EXPANSION = 6  # arXiv:1801.04381 section 4
SHRINKING = 4  # arXiv:1512.03385 Figure 5: 256 channels shrink to 64


@dataclass(frozen=True)
class Block:
    """A residual block of 1x1, 3x3 and 1x1 convolutions, stride 1: `ends` channels outside, `inner` inside."""

    name: str
    ends: int
    inner: int
    depthwise: bool

    @property
    def parameters(self) -> int:
        """Weights of the three convolutions, without BatchNorm."""
        spatial = 9 * self.inner if self.depthwise else 9 * self.inner**2
        return 2 * self.ends * self.inner + spatial

    @property
    def multiply_adds(self) -> int:
        """For a picture of SIDE x SIDE."""
        return self.parameters * SIDE**2

    @property
    def kept_kilobytes(self) -> float:
        """What lies in memory between blocks: one end, float32, in 1000 bytes."""
        return self.ends * SIDE**2 * 4 / 1000

    @property
    def peak_kilobytes(self) -> float:
        """What is alive at the worst moment, layer by layer: the shortcut's source, an input and an output."""
        widest = max(2 * self.inner, self.ends + self.inner)
        return (self.ends + widest) * SIDE**2 * 4 / 1000


def blocks() -> tuple[Block, Block, Block]:
    """Return V2's block, ResNet's with the same ends, and ResNet's with the same cost.

    With ends k and inside k / 4, ResNet's has k^2 / 2 + 9 k^2 / 16 weights: the third has the k that comes closest.
    """
    inverted = Block("inverted residual", CHANNELS, EXPANSION * CHANNELS, depthwise=True)
    same_ends = Block("ResNet, same ends", CHANNELS, CHANNELS // SHRINKING, depthwise=False)
    ends = SHRINKING * round(sqrt(inverted.parameters / (1 / 2 + 9 / 16)) / SHRINKING)
    return inverted, same_ends, Block("ResNet, same cost", ends, ends // SHRINKING, depthwise=False)


def reproduce_resnet_block(_settings: Settings) -> Reproduction:
    """Compare the two blocks."""
    rows = []
    for block in blocks():
        section = f"{block.name}: {block.ends} - {block.inner} - {block.ends} channels at {SIDE}x{SIDE}"
        rows += [
            Row("weights", block.parameters, section=section),
            Row("multiply-adds", block.multiply_adds / 1e6, unit="M", section=section),
            Row("kept between blocks", block.kept_kilobytes, unit="kB, float32", section=section),
            Row("alive at the worst moment", block.peak_kilobytes, unit="kB, float32", section=section),
        ]
    inverted, _, same_cost = blocks()
    ratio = same_cost.ends / inverted.ends
    return Reproduction(
        name="resnet-block",
        title="The inverted residual beside ResNet's bottleneck",
        says=(
            "arXiv:1801.04381 section 3.3 turns ResNet's block inside out: the shortcut joins the narrow ends, the "
            "wide part is inside, and the 3x3 convolution there is depthwise. ResNet's (arXiv:1512.03385) shrinks to a "
            "quarter, convolves densely, and grows back. The paper prints no numbers for the pair: these are counted."
        ),
        rows=tuple(rows),
        notes=(
            (
                "With the same ends ResNet's block is by far the cheaper one, and by far the weaker: it has "
                f"{CHANNELS // SHRINKING} channels to think with, where V2's has {EXPANSION * CHANNELS}."
            ),
            (
                f"For the same weights and multiply-adds ResNet's block needs ends of {same_cost.ends} channels: "
                f"{ratio:.1f} times the memory between blocks. That is what V2 saves, if the inside is split or "
                "streamed; executed layer by layer it needs more, since its inside must lie in memory whole."
            ),
            (
                "3x3 dense is nine times the weights of a 1x1; depthwise is nearly free. So the wide inside is "
                "affordable only because it is depthwise."
            ),
        ),
        picture=_draw(),
        caption="To scale: a plane is as high as it has channels, the number on it; below, the convolutions' weights",
    )


def _draw() -> bytes:
    with figure_style() as figure_class:
        figure = figure_class(figsize=(9.0, 3.9), layout="constrained")
        for index, block in enumerate(blocks()):
            axes = figure.add_subplot(1, 3, index + 1)
            _draw_block(axes, block, RIGHT if block.depthwise else WRONG)
        return to_png(figure)


def _draw_block(axes: Axes, block: Block, colour: str) -> None:
    """Draw the four planes of a block and the convolutions between them."""
    heights = (block.ends, block.inner, block.inner, block.ends)
    spatial = 9 * block.inner if block.depthwise else 9 * block.inner**2
    weights = (block.ends * block.inner, spatial, block.inner * block.ends)
    names = ("1x1", "3x3 depthwise" if block.depthwise else "3x3 dense", "1x1")
    for place, height in enumerate(heights):
        thin = place in (0, 3)
        axes.bar(place, height, 0.14, bottom=-height / 2, color=INK if thin else colour)
        axes.text(place, height / 2 + 8, f"{height}", ha="center", fontsize=8, color=INK)
    for place, (name, count) in enumerate(zip(names, weights, strict=True)):
        left, right = heights[place] / 2, heights[place + 1] / 2
        span = [place + 0.09, place + 0.91]
        axes.fill_between(span, [left, right], [-left, -right], color=colour, alpha=0.12, linewidth=0)
        if place == 1 and block.depthwise:
            for step in range(-5, 6):  # channel by channel: no line crosses another
                axes.plot(span, [step * left / 6] * 2, color=colour, linewidth=0.7)
        axes.text(place + 0.5, -225, f"{name}\n{count:,}\nweights", ha="center", va="top", fontsize=7.5, color=FAINT)
    arc = max(heights) / 2 + 26
    axes.annotate("", (3, arc), (0, arc), arrowprops={"arrowstyle": "->", "color": FAINT})
    axes.text(1.5, arc + 5, "shortcut", ha="center", color=FAINT, fontsize=7.5)
    axes.set_title(f"{block.name}\n{block.multiply_adds / 1e6:.1f} M multiply-adds", fontsize=9, fontweight="bold")
    axes.set_xlim(-0.3, 3.3)
    axes.set_ylim(-305, 250)
    axes.set_axis_off()
