"""What `fit` is asked for."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mobilenets.engine.memory import MODES, Mode
from mobilenets.errors import InputError
from mobilenets.fit.budget import Budget


@dataclass(frozen=True)
class Request:
    """The arguments of :func:`mobilenets.fit`; raises InputError for values that contradict."""

    model: str
    data: str | None
    budget: Budget
    method: str = "choose"
    memory: Mode = "layerwise"
    runtime: str | None = None
    precision: str | None = None
    threads: int = 1
    minutes: float | None = None
    table: Path | None = None
    resolution: int | None = None
    only: bool = False
    unmeasured: bool = False
    epochs: int | None = None
    short_steps: int = 40
    seed: int = 0
    out: Path = Path("runs/fit")
    resume: bool = False
    root: Path | None = None
    val_fraction: float = 0.2
    strict: bool = False
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.method not in ("choose", "adapt", "search"):
            raise InputError(f"--method is choose, adapt or search, not {self.method!r}")
        if self.memory not in MODES:
            raise InputError(f"--memory is {', '.join(MODES[:-1])} or {MODES[-1]}, not {self.memory!r}")
        if self.precision not in (None, "float32", "int8"):
            raise InputError(f"--precision is float32 or int8, not {self.precision!r}")
        least = {"threads": 1, "resolution": 1, "epochs": 1, "short_steps": 1, "seed": 0, "minutes": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise InputError(f"--{name.replace('_', '-')} must be {low} or more, not {value}")
        for name in ("resolution", "only") if self.method != "choose" else ("resume", "epochs"):
            if getattr(self, name):
                what = "choose" if self.method != "choose" else "adapt and search"
                raise InputError(f"--{name} is for {what}: leave it out of --method {self.method}")
        if self.method != "choose" and not self.budget.bounds():
            raise InputError("say what the budget is: --latency-ms, --ram, --flash or --multiply-adds")

    def facts(self) -> dict[str, Any]:
        """Return what a resumed run must agree in, as plain values."""
        free = ("resume", "workers", "strict", "minutes", "out", "unmeasured")
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in free}
        return {
            name: value.to_json() if isinstance(value, Budget) else str(value) if isinstance(value, Path) else value
            for name, value in values.items()
        }
