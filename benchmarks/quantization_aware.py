"""What 8 bits cost a network trained here, and what training on gains where rounding alone costs.

    python -m benchmarks.quantization_aware MODEL DATA OUT [EPOCHS]

MODEL is a float32 checkpoint trained on DATA. It is quantized per channel, and per tensor three ways: naively (ranges
and weight scales by the extremes, nothing equalized, no bias corrected), as well as it goes without training, and by
training on. With EPOCHS 0, per channel alone. A training in OUT that was interrupted is gone on with. All are judged on
the same pictures, those that the training never saw, in int8 and from the file that was written; but they did choose
the best epoch, as in every training, so that with few pictures the last figure is a little too good: the history has
all epochs. Writes benchmarks/results/quantization_aware_ARCH.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.environment import Figure, write
from benchmarks.quantization import NAIVE
from mobilenets.checkpoint import read_card
from mobilenets.quantize import QuantizeResult, quantize


def main() -> None:
    """Quantize in all ways and write the figures."""
    model, data, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    epochs = int(sys.argv[4]) if len(sys.argv) > 4 else None
    out.mkdir(parents=True, exist_ok=True)
    resume = (out / "qat" / "state.pt").exists()
    ways: dict[str, tuple[dict[str, Any], str]] = {"per channel": ({"granularity": "channel"}, "at most 1.0")}
    if epochs != 0:
        training = {"method": "qat", "epochs": None if resume else epochs, "resume": resume}
        ways |= {
            "per tensor, naively": (NAIVE | {"granularity": "tensor"}, "for comparison"),
            "per tensor, as well as without training": ({"granularity": "tensor"}, "for comparison"),
            "per tensor, trained on": (
                training | {"granularity": "tensor"},
                "at most 0.5, and less than the others",
            ),
        }
    card = read_card(model)
    title = f"{card.arch.name} {card.width:g} on {Path(data).name}, int8"
    figures: list[Figure] = []
    details: dict[str, Any] = {}
    for name, (options, wanted) in ways.items():
        target = out / ("qat.safetensors" if "method" in options else "int8.safetensors")
        result = quantize(model, data=data, out=target, **{"even_if_collapsed": True} | options)
        before, after = result.before.top1, result.after.top1
        assert before is not None
        assert after is not None
        what = f"{title} {name}: top-1 below float32's {100 * before:.2f} % ({result.after.images:,} pictures)"
        figures.append(Figure(what, round(100 * (before - after), 2), "points", wanted))
        details[name] = summary(result)
        print(f"{what}: {figures[-1].value:g} points, same answer {100 * result.agreement:.1f} %", flush=True)
    if epochs != 0:
        details["recipe"] = read_card(out / "qat.safetensors").recipe
        details["history"] = json.loads((out / "qat" / "history.json").read_text(encoding="utf-8"))
    print(write(f"quantization_aware_{card.arch.name}", figures, details))


def summary(result: QuantizeResult) -> dict[str, Any]:
    """Return a result without its paths."""
    document = result.to_json()
    return {key: value for key, value in document.items() if key not in ("model", "data", "checkpoint", "files")}


if __name__ == "__main__":
    main()
