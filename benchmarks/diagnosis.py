"""What is dead in four published networks, what taking it out changes, and what it costs in 8 bits.

    python -m benchmarks.diagnosis FOLDER [KEPT]

FOLDER has `weights`, with the four TFLite files named below, and `photos500`: labels.csv and images. Each network is
converted, diagnosed on 200 of the photographs, and pruned twice: of what is proved to be dead, its logits compared on
100 photographs, and with `--silent` of what said nothing on 200, compared on 200 others. MobileNetV2 is then rounded to
8 bits as plainly as can be, with its dead channels and without. `docs/diagnose.md` is made of the figures. With KEPT, a
folder, networks that are done are kept there, and not done again.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.environment import Figure, write
from mobilenets.diagnose import DiagnoseResult, diagnose
from mobilenets.diagnose.layers import LayerFacts
from mobilenets.files import write_atomically
from mobilenets.nn.convert import convert
from mobilenets.prune import PruneResult, prune
from mobilenets.quantize import quantize

NETWORKS = {
    "V1 0.25, 224, float": "mobilenet_v1_0.25_224_1_default_1.tflite",
    "V1 0.75, 192, uint8": "mobilenet_v1_0.75_192_quant.tflite",
    "V2 1.0, 224, int8 per channel": "tf2_mobilenet_v2_1.0_224_ptq.tflite",
    "V2 1.0, 224, uint8": "mobilenet_v2_1.0_224_quant.tflite",
}
ROUNDED = "V2 1.0, 224, int8 per channel"
LOOKED_AT, JUDGED = 200, 100


def main() -> None:
    """Examine all four, or those that are not in KEPT, and write the figures."""
    folder = Path(sys.argv[1])
    networks: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        kept = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(temporary)
        for name, file in NETWORKS.items():
            result = kept / f"{Path(file).stem}.json"
            if not result.is_file():
                found = json.dumps(examined(folder, file, Path(temporary), rounding=name == ROUNDED), indent=2)
                write_atomically(result, found)
            networks[name] = json.loads(result.read_text(encoding="utf-8"))
            print(name, networks[name]["proved"], networks[name].get("rounded", ""), flush=True)
    rows = networks[ROUNDED].pop("rounded")
    figures = [
        Figure(
            f"{name}: largest change of a logit when what is proved dead is taken out, {JUDGED} photographs",
            found["proved"]["max_abs_error"],
            "",
            "under 1e-5",
        )
        for name, found in networks.items()
    ]
    print(write("diagnosis", figures, {"networks": networks, "rounded": rows}))


def examined(folder: Path, file: str, made: Path, *, rounding: bool) -> dict[str, Any]:
    """Convert, diagnose and prune one network, and where asked round it to 8 bits."""
    data = str(folder / "photos500" / "labels.csv")
    source, pruned = made / f"{Path(file).stem}.safetensors", made / "pruned.safetensors"
    convert(folder / "weights" / file, out=source)
    found = diagnose(str(source), data, images=LOOKED_AT)
    dead = prune(str(source), dead=True, data=data, images=JUDGED, out=pruned)
    silent = prune(str(source), dead=True, silent=True, data=data, images=LOOKED_AT, out=made / "silent.safetensors")
    more = {"rounded": rounded(source, pruned, data)} if rounding else {}
    return described(found, dead, silent) | {"file": file} | more


def described(found: DiagnoseResult, dead: PruneResult, silent: PruneResult) -> dict[str, Any]:
    """Return what the page says of a network."""
    depthwise = [layer for layer in found.layers if layer.kind == "depthwise"]
    smallest = min(((float(layer.weight_ranges.min()), layer) for layer in depthwise), key=lambda pair: pair[0])
    most = max((layer.bits_lost_to_dead, index) for index, layer in enumerate(found.layers))
    saturated = max((layer.saturated or 0.0, layer.name) for layer in found.layers)
    return {
        "totals": found.totals,
        "images": found.images,
        "without_weights": {
            layer.name: [len(layer.dead_kernels), layer.channels] for layer in found.layers if layer.dead_kernels
        },
        "silent_stem": [len(found.layers[0].dead) + len(found.layers[0].constant), found.layers[0].channels],
        "silent_depthwise": sum(len(layer.dead) + len(layer.constant) for layer in depthwise),
        "smallest_depthwise_kernel": {
            "layer": smallest[1].name,
            "largest_weight": smallest[0],
            "median_of_layer": _median(smallest[1]),
        },
        "most_saturated": {"layer": saturated[1], "share": saturated[0]},
        "bits_lost_to_dead": widths(found.layers[most[1]]),
        "proved": _pruned(dead),
        "silent": _pruned(silent),
    }


def widths(layer: LayerFacts) -> dict[str, Any]:
    """Return how wide a layer's weights are, with what is dead and without."""
    gone = {*layer.dead, *layer.constant}
    living = [value for channel, value in enumerate(layer.weight_ranges.tolist()) if channel not in gone]
    return {
        "layer": layer.name,
        "widest": float(layer.weight_ranges.max()),
        "widest_living": max(living),
        "bits": layer.bits_lost_to_dead,
    }


def rounded(source: Path, pruned: Path, data: str) -> list[dict[str, Any]]:
    """Round to 8 bits per tensor by the extremes, with what is dead and without; return top-1 and top-5 of each."""
    rows: list[dict[str, Any]] = []
    for name, model in (("int8 per tensor", source), ("`prune --dead`, then int8 per tensor", pruned)):
        result = quantize(
            str(model),
            data=data,
            granularity="tensor",
            calibration="minmax",
            equalize="off",
            correct_bias="off",
            weights="max",
            images=64,
            limit=300,
            max_drop=100,
            even_if_collapsed=True,
            out=source.parent / "int8.safetensors",
        )
        if not rows:
            rows.append({"name": "float32", "top1": result.before.top1, "top5": result.before.top5})
        rows.append({"name": name, "top1": result.after.top1, "top5": result.after.top5})
    return rows


def _median(layer: LayerFacts) -> float:
    return float(sorted(layer.weight_ranges.tolist())[layer.channels // 2])


def _pruned(result: PruneResult) -> dict[str, Any]:
    """Return what went, and what that changed, without the names of temporary files."""
    document = result.to_json()
    kept = ("parameters_before", "parameters_after", "multiply_adds_before", "multiply_adds_after")
    return {name: document[name] for name in (*kept, "max_abs_error", "top1_agreement", "images")} | {
        "proved": sum(row.proved for row in result.removed),
        "silent": sum(row.silent for row in result.removed),
    }


if __name__ == "__main__":
    main()
