"""What quantizing gave: the file, and float32 beside int8."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilenets.results import file_lines, json_number, metric_name
from mobilenets.text import percent, printable, table

if TYPE_CHECKING:
    from mobilenets.compress.post_training import Trial
    from mobilenets.compress.sensitivity import LayerError

ADVICE = {
    "channel": (
        "one weight scale per channel: right for CPUs and GPUs, whose kernels take it at no cost. Some NPUs run such "
        "layers off the accelerator (an STM32MP2: 76 ms where a network per tensor takes 12): quantize with "
        "--granularity tensor for those"
    ),
    "tensor": (
        "one weight scale per layer: for NPUs that run nothing else on the accelerator. CPUs and GPUs lose nothing by "
        "--granularity channel, and it is more accurate"
    ),
}


@dataclass(frozen=True)
class Accuracy:
    """Say how good a network is: fractions of `images`, None where these have no labels.

    A classifier has `top1` and `top5`, a detector COCO's mean average precisions `map` and `map_50`.
    """

    top1: float | None
    top5: float | None
    images: int
    map: float | None = None
    map_50: float | None = None

    @property
    def main(self) -> float | None:
        """The figure that may not fall."""
        return self.top1 if self.map_50 is None else self.map_50

    def to_json(self) -> dict[str, Any]:
        """Return `before` or `after`."""
        data = {name: json_number(getattr(self, name)) for name in ("top1", "top5")} | {"images": self.images}
        if self.map is not None:
            data |= {name: json_number(getattr(self, name)) for name in ("map", "map_50")}
        return data


@dataclass(frozen=True)
class QuantizeResult:
    """Hold the int8 network's file, and float32 beside int8 on pictures that neither training nor calibration saw.

    `after` is of the file, read back. `agreement` is the share of pictures, 0..1, with the same best class, or of a
    detector's boxes with a score of 0.5 and more that are found again (`boxes` says which of the two). `layers`
    are all operations in the plan's order; `tried` are the ways that were tried. Sizes are of the weights.
    """

    model: str
    data: str
    checkpoint: Path
    granularity: str
    method: str
    before: Accuracy
    after: Accuracy
    agreement: float
    layers: tuple[LayerError, ...]
    part: str
    tried: tuple[Trial, ...] = ()
    calibration_images: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    problems: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    boxes: bool = False

    @property
    def advice(self) -> str:
        """Which targets this granularity is for."""
        return ADVICE[self.granularity]

    def __str__(self) -> str:
        title = f"{printable(self.model)} on {printable(self.data)}: int8, weights per {self.granularity}"
        way = self._way()
        parts = [title, self._accuracy(), *([way] if way else []), self._layers(), f"note: {self.advice}"]
        if self.problems:
            parts.append("\n".join(["problems", *(f"  {printable(problem)}" for problem in self.problems)]))
        if self.files:
            parts.append(file_lines(self.files))
        return "\n\n".join([*parts, f"saved  {printable(str(self.checkpoint))}"])

    def _accuracy(self) -> str:
        rows = [["weights", f"{self.bytes_before / 1e6:.2f} MB", f"{self.bytes_after / 1e6:.2f} MB", ""]]
        for key in ("top5", "top1", "map", "map_50"):
            before, after = getattr(self.before, key), getattr(self.after, key)
            name = metric_name(key)
            if before is not None and after is not None and not before == after == 1:  # top-5 of two classes
                rows.insert(0, [name, percent(before), percent(after), f"{100 * (after - before):+.2f}"])
        where = f"{self.after.images:,} images ({printable(self.part)})"
        same = f"same answer for {percent(self.agreement)} of {where}"
        if self.boxes:
            same = f"{percent(self.agreement)} of the sure boxes found again on {where}"
        return f"{table(['', 'float32', 'int8', 'points'], rows)}\n{same}"

    def _way(self) -> str:
        for trial in self.tried:
            if trial.chosen:
                way = trial.way
                others = f", the best of {len(self.tried)} ways" if len(self.tried) > 1 else ""
                bias = "biases corrected" if way.bias_corrected else "biases as they were"
                return (
                    f"calibrated on {self.calibration_images:,} images: {way.calibration} ranges, equalization "
                    f"{way.equalization}, {way.weights} weight scales, {bias}{others}"
                )
        return ""

    def _layers(self) -> str:
        rows = [
            [
                layer.name,
                layer.kind,
                f"{layer.sqnr_db:.1f}",
                f"{layer.own_sqnr_db:.1f}",
                "" if layer.weight_sqnr_db is None else f"{layer.weight_sqnr_db:.1f}",
                percent(layer.clipped_share),
                "hurts" if layer.hurts else "",
            ]
            for layer in self.layers
        ]
        header = ["layer", "kind", "SQNR dB", "its own", "weights", "clipped", ""]
        meaning = "signal to quantization noise: of the output, of this layer alone, of its weights"
        return f"{table(header, rows, left=2)}\n{meaning}"

    def to_json(self) -> dict[str, Any]:
        """Return everything above; `before` and `after` have top1, top5 and images."""
        return {
            "model": self.model,
            "data": self.data,
            "checkpoint": str(self.checkpoint),
            "granularity": self.granularity,
            "method": self.method,
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "agreement": self.agreement,
            "part": self.part,
            "calibration_images": self.calibration_images,
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "layers": [layer.to_json() for layer in self.layers],
            "tried": [trial.to_json() for trial in self.tried],
            "advice": self.advice,
            "problems": list(self.problems),
            "files": [str(path) for path in self.files],
        }
