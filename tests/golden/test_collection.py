"""The table of published counts is the whole collection it was taken from, where that is at hand."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

HERE = Path(__file__).parent

LEFT_OUT = (  # (system, model) patterns of rows with a count that no table of ours describes
    (r"timm.*", r"(lcnet|mobilenetv4|mobilenet_edgetpu|mnasnet_small|resnet|efficientnet_b0).*", "other networks"),
    (r"timm.*", r"mobilenetv3_large_150d.*", "V3 scaled in depth, stage by stage: no line of the paper's table"),
    (r"timm.*", r"mobilenetv3_rw.*", "other squeeze-excite widths, and no bias in the last 1x1: 5,479,918"),
    (r"paper.*|torchvision", r".*(SSD|ssd|YOLO|rcnn|R-ASPP|raspp|DeepLab|deeplab).*", "detection, segmentation"),
    (r"paper.*", r"ShuffleNet.*|NasNet.*|ProxylessNAS|Mnas-small|MnasNet-search.*", "other networks"),
    (r"mcunet", r"mcunet.*|proxyless.*", "other networks"),
    (r"once-for-all|ultralytics", r".*", "other networks"),
    (r"PaddleClas", r".*", "its way of counting is not documented: parameters neither with BatchNorm nor without it"),
)


def in_collection(row: Mapping[str, object]) -> tuple[str, str, float, int]:
    """Bring a row of the collection to the names of our table."""
    system, model = str(row["system"]), str(row["model"])
    width = float(str(row["width"] or 1.0))
    if system.startswith("timm"):
        system, model = "timm", model.partition(".")[0]
    if system == "torchvision":
        model = model.split()[0]
        width = float(model[7:].replace("_", ".")) if model.startswith("mnasnet") else width
    if "Table 10" in str(row["source"]) and system == "paper:MobileNetV1":
        model = "MobileNetV1 (120 classes)"
    model = re.sub(r"( 1\.0| 0\.75)? (float|8-bit|uint8 \(QAT\)|fp32|int8|TFLITE)$", "", model)
    return system, model.removesuffix("-c5e733a8 (long recipe)"), width, int(str(row["resolution"] or 0))


def test_table_is_the_collection(shared_data: Path) -> None:
    path = shared_data.parent / "published" / "published.json"
    if not path.is_file():
        pytest.skip(f"the collection is not there: {path}")
    ours: dict[tuple[str, str, float, int], set[tuple[float, float]]] = {}
    with (HERE / "published_counts.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            cell = (row["system"], row["model"], float(row["width"]), int(row["resolution"]))
            ours.setdefault(cell, set()).add((float(row["params_m"]), float(row["madds_m"] or "nan")))
    compared = set()
    for theirs in json.loads(path.read_text(encoding="utf-8")):
        params, madds = theirs.get("params_m"), theirs.get("madds_m")
        system, model = theirs["system"], theirs["model"]
        left_out = any(re.fullmatch(s, system) and re.fullmatch(m, model) for s, m, _ in LEFT_OUT)
        if left_out or (params is None and madds is None):
            continue
        cell = in_collection(theirs)
        assert cell in ours, theirs
        assert any(params in (None, p) and madds in (None, m) for p, m in ours[cell]), theirs
        compared.add(cell)
    assert {cell[0] for cell in ours.keys() - compared} <= {"tensorflow/tpu", "d-li14/efficientnet-lite.pytorch"}
