"""Write the tables of docs/diagnose.md out of benchmarks/results/diagnosis.json.

    python docs/diagnose.py

The figures are measured by `python -m benchmarks.diagnosis FOLDER`. A test compares the page with them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_suffix(".md")
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "diagnosis.json"
MARK = re.compile(r"<!-- (\w+): generated -->\n.*?<!-- end -->", re.DOTALL)

Network = Mapping[str, Any]


def main() -> None:
    """Rewrite the page in place."""
    PAGE.write_text(generated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def generated(text: str) -> str:
    """Return the text with every table between its marks made anew from the measured figures."""
    details = json.loads(RESULTS.read_text(encoding="utf-8"))["details"]
    tables = {
        "networks": _by_network(details, NETWORKS),
        "places": _by_network(details, PLACES),
        "silent": _by_network(details, SILENT),
        "bits": _by_network(details, BITS),
        "rounded": _table(
            ["V2 1.0", "top-1", "top-5"],
            [[row["name"], f"{100 * row['top1']:.1f} %", f"{100 * row['top5']:.1f} %"] for row in details["rounded"]],
        ),
    }
    return MARK.sub(lambda found: f"<!-- {found[1]}: generated -->\n{tables[found[1]]}\n<!-- end -->", text)


def _change(before: int, after: int) -> str:
    return f"{before:,} -> {after:,} ({100 * (after - before) / before:.2f} %)"


def _elsewhere(network: Network) -> str:
    found = {name: counts for name, counts in network["without_weights"].items() if not name.endswith("_depthwise")}
    return ", ".join(f"{dead} of {channels} in {name}" for name, (dead, channels) in found.items()) or "none"


def _removal(name: str) -> dict[str, Callable[[Network], str]]:
    """Return the columns that say what pruning did: `proved` or `silent`."""
    return {
        "parameters": lambda network: _change(network[name]["parameters_before"], network[name]["parameters_after"]),
        "multiply-adds": lambda network: _change(
            network[name]["multiply_adds_before"], network[name]["multiply_adds_after"]
        ),
        "largest change of a logit": lambda network: f"{network[name]['max_abs_error']:.2g}",
        "same answer": lambda network: f"{100 * network[name]['top1_agreement']:g} % of {network[name]['images']}",
    }


NETWORKS: dict[str, Callable[[Network], str]] = {
    "channels dead / constant / all": lambda network: " / ".join(
        f"{network['totals'][which]:,}" for which in ("dead", "constant", "channels")
    ),
    "proved, taken out": lambda network: f"{network['proved']['proved']:,}",
    **_removal("proved"),
}
SILENT: dict[str, Callable[[Network], str]] = {
    "silent, taken out besides": lambda network: f"{network['silent']['silent']:,}",
    **_removal("silent"),
}
PLACES: dict[str, Callable[[Network], str]] = {
    "depthwise kernels without weights": lambda network: (
        f"{network['totals']['dead_depthwise_kernels']:,} of {network['totals']['depthwise_channels']:,}"
    ),
    "smallest depthwise kernel: its largest weight, and the median's of its layer": lambda network: (
        "{largest_weight:.2f}, {median_of_layer:.2f}".format(**network["smallest_depthwise_kernel"])
    ),
    "depthwise channels that never change": lambda network: f"{network['silent_depthwise']:,}",
    "other filters without weights": _elsewhere,
    "stem channels that say nothing": lambda network: "{} of {}".format(*network["silent_stem"]),
    "most values at 6": lambda network: (
        f"{100 * network['most_saturated']['share']:.1f} % in {network['most_saturated']['layer']}"
    ),
}
BITS: dict[str, Callable[[Network], str]] = {
    "layer": lambda network: str(network["bits_lost_to_dead"]["layer"]),
    "widest weight": lambda network: f"{network['bits_lost_to_dead']['widest']:.1f}",
    "widest of a living channel": lambda network: f"{network['bits_lost_to_dead']['widest_living']:.2f}",
    "bits of 8 lost": lambda network: f"{network['bits_lost_to_dead']['bits']:.1f}",
}


def _by_network(details: Mapping[str, Any], columns: Mapping[str, Callable[[Network], str]]) -> str:
    rows = [[name, *(cell(network) for cell in columns.values())] for name, network in details["networks"].items()]
    return _table(["network", *columns], rows)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
