"""Bring documents and code together: cards into the model files, docs/models.md and docs/commands.md out of the code.

make docs
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eachmask.cli import COMMANDS
from eachmask.cli.models import Row, all_rows
from eachmask.weights.catalogue import bundled
from eachmask.weights.file import read_info, replace_info

DOCS = Path(__file__).resolve().parent
GENERATED = "<!-- Written by `make docs`; change the code instead. -->\n\n"


def put_cards_into_files() -> None:
    """docs/models/NAME.md is the source of a bundled model's card; its file carries a copy to where it is used."""
    for name, path in bundled().items():
        page = DOCS / "models" / f"{name}.md"
        if page.is_file() and read_info(path).card != page.read_text():
            replace_info(path, card=page.read_text())
            print(path.relative_to(DOCS.parent))


def models_page() -> str:
    """What can be loaded by name."""
    lines = [
        "# All models\n",
        "Scores *measured* are this project's own, as fractions of 1, and stand in the model's file; scores "
        "*published* are those of the weights' makers, on COCO val2017 where a card names no other data, in per cent: "
        "`eachmask show NAME`. A checkpoint of another project that lies on the disk becomes a model file by `eachmask "
        "import`.\n",
        "| name | what for | MB | from | measured | published | license |",
        "|---|---|---|---|---|---|---|",
        *(_models_row(row) for row in all_rows()),
    ]
    return GENERATED + "\n".join(lines) + "\n"


def _models_row(row: Row) -> str:
    name = f"[{row.name}](models/{row.name}.md)" if (DOCS / "models" / f"{row.name}.md").is_file() else row.name
    measured = ", ".join(f"{key} {value:.3f}" for key, value in row.measured.items()) or "-"
    published = ", ".join(f"{key} {value:g}" for key, value in row.published.items()) or "-"
    return f"| {name} | {row.summary} | {row.size_mb:g} | {row.source} | {measured} | {published} | {row.license} |"


def commands_page() -> str:
    """Every option of every command."""
    parts = ["# All commands\n", "`eachmask COMMAND --help` prints the same.\n"]
    for command, (module, options, _, _) in COMMANDS.items():
        parts += _command(command, getattr(importlib.import_module(module), options))
    return GENERATED + "\n".join(parts) + "\n"


def _command(name: str, options: Any) -> Iterator[str]:
    about = inspect.getdoc(options) or ""
    text, _, examples = about.partition("Examples:\n")
    yield f"## eachmask {name}\n\n{text.strip()}\n"
    if examples:
        yield f"```bash\n{textwrap.dedent(examples).strip()}\n```\n"
    yield "| option | default | what |\n|---|---|---|"
    docs = _field_docs(options)
    for field in dataclasses.fields(options):
        positional = "Positional" in str(field.type)
        option = field.name.upper() if positional else "--" + field.name.rstrip("_").replace("_", "-")
        yield f"| `{option}` | {_default(field)} | {docs[field.name]} |"
    yield ""


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "required"
    return "" if field.default in (None, ()) else f"`{field.default}`"


def _field_docs(options: Any) -> dict[str, str]:
    """Field -> the string under it, of the class itself or of one that it extends."""
    source = "\n".join(inspect.getsource(kind) for kind in reversed(options.__mro__[:-1]))
    found = re.findall(r'^    (\w+): [^\n]*\n    """(.*?)"""', source, flags=re.DOTALL | re.MULTILINE)
    return {name: " ".join(text.split()).replace("|", "\\|") for name, text in found}


PAGES = {"models.md": models_page, "commands.md": commands_page}

if __name__ == "__main__":
    put_cards_into_files()
    for page, write in PAGES.items():
        (DOCS / page).write_text(write())
        print(f"docs/{page}")
