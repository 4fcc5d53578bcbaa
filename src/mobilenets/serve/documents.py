"""A page that lists the interface, made of its OpenAPI description; it loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any


def interface_page(openapi: Mapping[str, Any]) -> bytes:
    """Return the page as HTML."""
    operations = [
        _operation(method, path, operation)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    ]
    title = escape(openapi["info"]["title"])
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}: the interface</title>
<link rel="stylesheet" href="page.css">
<link rel="icon" href="icon.svg">
</head>
<body>
<main>
<h1>{title}: the interface</h1>
<p>For programs, the same is in <a href="openapi.json">openapi.json</a> (OpenAPI {escape(openapi["openapi"])}).
<a href="./">To the page</a>.</p>
{"".join(operations)}
</main>
</body>
</html>
""".encode()


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    parts = [f"<h2><code>{escape(method.upper())} {escape(path)}</code></h2>"]
    parts.append(f"<p>{escape(operation.get('summary', ''))}. {escape(operation.get('description', ''))}</p>")
    rows = [
        (f"?{parameter['name']}=", f"{parameter.get('description', '')} {_range(parameter['schema'])}")
        for parameter in operation.get("parameters", [])
    ]
    kinds = operation.get("requestBody", {}).get("content", {})
    if kinds:
        rows.append(("body", ", ".join(kinds)))
    rows += [(status, answer["description"]) for status, answer in operation["responses"].items()]
    cells = "".join(f"<tr><th scope='row'>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in rows)
    return "".join([*parts, f"<table><tbody>{cells}</tbody></table>"])


def _range(schema: Mapping[str, Any]) -> str:
    low, high, default = schema.get("minimum"), schema.get("maximum"), schema.get("default")
    parts = [f"{low:g} to {high:g}" if low is not None and high is not None else schema.get("type", "")]
    if default is not None:
        parts.append(f"by default {default}")
    return "; ".join(part for part in parts if part)
