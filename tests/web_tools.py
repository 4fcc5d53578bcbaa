"""What exporting a page takes beside Python."""

from __future__ import annotations

import shutil

import pytest

from mobilenets.errors import InputError, MissingExtraError
from mobilenets.formats.web_runtime import web_runtime


def need_web_tools() -> None:
    """Skip the test, saying why, where no page can be exported."""
    if shutil.which("node") is None:
        pytest.skip("node is not installed, so no page is exported: apt-get install nodejs npm")
    pytest.importorskip("onnx")
    try:
        web_runtime()
    except (InputError, MissingExtraError) as error:
        pytest.skip(f"no page is exported: {error}")
