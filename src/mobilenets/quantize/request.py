"""What `quantize` is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mobilenets.errors import InputError


@dataclass(frozen=True)
class Request:
    """The arguments of :func:`mobilenets.quantize`; raises InputError for values that contradict."""

    model: str
    data: str
    granularity: Literal["channel", "tensor"] = "channel"
    method: Literal["ptq", "qat"] = "ptq"
    out: Path | None = None
    images: int = 128
    calibration: Literal["auto", "minmax", "percentile-99.99", "percentile-99.9", "mse"] = "auto"
    equalize: Literal["auto", "off", "exact", "loose", "relu"] = "auto"
    correct_bias: Literal["auto", "on", "off"] = "auto"
    weights: Literal["auto", "max", "mse"] = "auto"
    limit: int | None = None
    max_drop: float = 5.0
    even_if_collapsed: bool = False
    epochs: int | None = None
    resume: bool = False
    report: Path | None = None
    root: Path | None = None
    val_fraction: float = 0.2
    seed: int = 0
    strict: bool = False

    def __post_init__(self) -> None:
        for flag, value in {"--images": self.images, "--limit": self.limit, "--epochs": self.epochs}.items():
            if value is not None and value < 1:
                raise InputError(f"{flag} must be 1 or more, not {value}")
        if self.method != "qat" and (self.epochs is not None or self.resume):
            flag = "--resume" if self.resume else "--epochs"
            raise InputError(f"{flag} is for trainings: add --method qat, or leave it out")
