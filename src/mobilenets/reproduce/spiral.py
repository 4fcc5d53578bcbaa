"""V2's Figure 1: what ReLU leaves of a spiral, in few dimensions and in many."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mobilenets.draw import FAINT, LINE, RIGHT, WRONG, figure_style, to_png
from mobilenets.reproduce.outcome import Reproduction, Row, Settings

Points = npt.NDArray[np.float64]

DIMENSIONS = (2, 3, 5, 15, 30)
"""The figure's."""
CURVE = (2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30)
SEEDS = 200
POINTS = 1000
TURNS = 2.5


def spiral() -> Points:
    """Return an Archimedean spiral around the origin, (POINTS, 2), in -1..1, evenly spaced in angle."""
    t = np.linspace(0, 1, POINTS)
    angle = 2 * np.pi * TURNS * t
    points: Points = np.stack([t * np.cos(angle), t * np.sin(angle)], axis=1)
    return points


def there_and_back(points: Points, dimensions: int, seed: int) -> Points:
    """Embed points (N, 2) by a random matrix into `dimensions`, apply ReLU, and come back by the pseudo-inverse."""
    matrix = _matrix(dimensions, seed)
    back: Points = np.maximum(points @ matrix, 0) @ np.linalg.pinv(matrix)
    return back


def _matrix(dimensions: int, seed: int) -> Points:
    return np.random.default_rng((seed, dimensions)).standard_normal((2, dimensions))


def collapsed(points: Points, dimensions: int, seed: int) -> float:
    """Return the share of the points that cannot be rebuilt: ReLU leaves fewer than two of their coordinates.

    One coordinate tells where on a line a point is, none that it is somewhere in a sector; two give back the plane.
    """
    return float(((points @ _matrix(dimensions, seed) > 0).sum(axis=1) < 2).mean())


def distortion(points: Points, back: Points) -> float:
    """Return what a linear layer after it could not straighten, as a share of the points' size.

    That is the squared distance between the points and the best linear image of what came back: 0 is none.
    """
    solved, *_ = np.linalg.lstsq(back, points, rcond=None)
    return float(((back @ solved - points) ** 2).sum() / (points**2).sum())


def measured(dimensions: int, seeds: int = SEEDS) -> tuple[Points, Points]:
    """Return for each of many random matrices the share collapsed and the distortion, (seeds,) each."""
    points = spiral()
    lost = [collapsed(points, dimensions, seed) for seed in range(seeds)]
    bent = [distortion(points, there_and_back(points, dimensions, seed)) for seed in range(seeds)]
    return np.array(lost), np.array(bent)


def reproduce_relu(_settings: Settings) -> Reproduction:
    """Draw V2's Figure 1, and measure it."""
    found = {n: measured(n) for n in CURVE}
    rows = []
    for which, section in enumerate(("Collapsed: the share that cannot be rebuilt", "Distortion: what stays bent")):
        for n in CURVE:
            low, middle, high = np.percentile(found[n][which], (10, 50, 90))
            said = {2: "collapses", 3: "collapses", 15: "survives", 30: "survives"}.get(n) if which == 0 else None
            text = f"{100 * middle:.0f} % ({100 * low:.0f} to {100 * high:.0f})"
            rows.append(Row(f"n = {n}", text, said, section=section))
    return Reproduction(
        name="relu",
        title="What ReLU destroys: Figure 1 of MobileNetV2",
        says=(
            "arXiv:1801.04381 section 3.2, Figure 1: a spiral in the plane is embedded into n dimensions by a random "
            "matrix, put through ReLU, and projected back by the (pseudo-)inverse. With n = 2 and 3 parts of it "
            "collapse onto one another; with n = 15 and 30 it survives. Hence no ReLU on narrow layers: the linear "
            "bottleneck."
        ),
        rows=tuple(rows),
        notes=(
            (
                f"The paper shows one drawing and no numbers. Here are {SEEDS} random matrices for each n: the median, "
                "and in brackets what 80 % of them lie between."
            ),
            (
                "Two measures. Collapsed are points of which ReLU leaves fewer than two coordinates: nothing after it "
                "can tell them from others. Distortion is what the best linear layer after it could not straighten."
            ),
            (
                "One drawing can mislead: matrices differ. What collapses is all but gone at n = 15; what is bent goes "
                "down slowly, so that even n = 30 does not give back the spiral's very shape."
            ),
        ),
        picture=_draw(found),
        caption=(
            "Above: the spiral, and what comes back from n dimensions, through the matrix of median distortion. "
            f"Below: both losses over n, median and 80 % of {SEEDS} matrices"
        ),
    )


def _draw(found: dict[int, tuple[Points, Points]]) -> bytes:
    points = spiral()
    with figure_style() as figure_class:
        figure = figure_class(figsize=(10.0, 4.6), layout="constrained")
        grid = figure.add_gridspec(2, 1 + len(DIMENSIONS), height_ratios=(1, 1.15))
        for column, n in enumerate((None, *DIMENSIONS)):
            axes = figure.add_subplot(grid[0, column])
            seed = 0 if n is None else int(np.argsort(found[n][1])[SEEDS // 2])  # of median distortion
            shown = points if n is None else there_and_back(points, n, seed)
            axes.scatter(shown[:, 0], shown[:, 1], c=np.linspace(0, 1, POINTS), cmap="viridis", s=2, linewidths=0)
            lost = "" if n is None else f"{100 * collapsed(points, n, seed):.0f} % collapsed"
            axes.set_title("the spiral" if n is None else f"n = {n}: {lost}", fontsize=8.5)
            axes.set_aspect("equal", adjustable="datalim")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_color(LINE)
        axes = figure.add_subplot(grid[1, :])
        for which, (label, colour, style) in enumerate((("collapsed", WRONG, "o-"), ("distortion", RIGHT, "s-"))):
            low, middle, high = (
                [100 * float(np.percentile(each[which], share)) for each in found.values()] for share in (10, 50, 90)
            )
            axes.fill_between(list(found), low, high, color=colour, alpha=0.15, linewidth=0)
            axes.plot(
                list(found),
                middle,
                style,
                color=colour,
                markersize=4,
                label=f"{label}: median, and 80 % of the matrices",
            )
        for n in DIMENSIONS:
            axes.axvline(n, color=FAINT, linewidth=0.7, linestyle=":")
        axes.set_xticks(list(found))
        axes.set_xlabel("dimensions n")
        axes.set_ylabel("% of the spiral")
        axes.set_ylim(0, 105)
        axes.legend(frameon=False, loc="upper center", ncols=2)
        axes.grid(visible=True, axis="y", color=LINE, linewidth=0.8)
        axes.spines[["top", "right", "left"]].set_visible(False)
        return to_png(figure)
