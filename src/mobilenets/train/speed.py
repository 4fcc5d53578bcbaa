"""What makes a step faster on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Speed:
    """How steps are computed: bfloat16 where autocast allows it, channels innermost in memory, compiled."""

    bf16: bool = False
    channels_last: bool = False
    compile: bool = False

    def switch_on(self, module: nn.Module) -> None:
        """Compile the module in place where wanted; the names of its tensors stay."""
        if self.compile:
            module.compile()

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {"bf16": self.bf16, "channels_last": self.channels_last, "compile": self.compile}
