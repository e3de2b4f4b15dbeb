"""The page at the server's root: its routes with an example each, readable without a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from eachmask.files.html import headline, page, part


def manual(schema: Mapping[str, Any]) -> str:
    """A page from an OpenAPI description."""
    parts = (part(f"{method.upper()} {path}", _route(method, path, route)) for method, path, route in _routes(schema))
    note = "Every request but /health and /ready shows a key. The machine-readable description is at /openapi.json."
    return page("eachmask", headline("eachmask server", "What it answers", note=note), "\n".join(parts))


def _routes(schema: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for path, methods in schema["paths"].items():
        for method, route in methods.items():
            yield method, path, route


def _route(method: str, path: str, route: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<li><code>{escape(one['name'])}</code> {escape(one.get('description', ''))}</li>"
        for one in route.get("parameters", ())
    )
    words = f"<p>{escape(route.get('description', ''))}</p>"
    return f"{words}<ul>{rows}</ul><pre>{escape(_example(method, path, route))}</pre>"


def _example(method: str, path: str, route: Mapping[str, Any]) -> str:
    """For a shell."""
    line = 'curl -H "Authorization: Bearer $KEY"'
    if "requestBody" in route:
        line += " -H 'Content-Type: application/json' -d '{\"points\": [[120, 80]]}'"
    elif method == "post" and path in ("/predict", "/sessions"):
        line += " --data-binary @image.jpg"
    elif method == "post":
        line += " -X POST"
    return f"{line} http://127.0.0.1:8000{path}"
