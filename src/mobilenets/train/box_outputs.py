"""What a detector's run leaves in its folder to be looked at."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mobilenets.data.boxed import BoxedPictures
from mobilenets.detections import DetectionReport
from mobilenets.files import write_atomically
from mobilenets.image.detection import Found
from mobilenets.machine import describe_machine
from mobilenets.report.boxes import examples, write_box_report
from mobilenets.train.decisions import Decisions


def write_page(
    out: Path,
    report: DetectionReport,
    found: Sequence[Found],
    pictures: BoxedPictures,
    history: Sequence[Mapping[str, Any]],
    decisions: Decisions,
) -> list[Path]:
    """Write report.html: curves, precision and recall, classes, pictures with the most mistakes, recipe, command.

    The report's numbers are in report.json, for programs.
    """
    page = write_box_report(
        out / "report.html",
        report,
        history=history,
        shown=examples(pictures.truths, found, pictures, report.labels),
        recipe=decisions.recipe.to_json(),
        command=f"{decisions.request.command} --out {shlex.quote(str(out))}",
        machine={**describe_machine(), "computed as": str(decisions.speed), "threads": decisions.threads},
    )
    write_atomically(out / "report.json", json.dumps(report.to_json()) + "\n")
    return [page]
