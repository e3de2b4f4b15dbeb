"""The documents: every link leads somewhere, generated pages are of today, cards are those in the model files."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import tyro

from eachmask.cli import COMMANDS
from eachmask.inference.following import ONE_SHOT
from eachmask.models import VARIANTS
from eachmask.models.promptable.without_learning import CLASSICS
from eachmask.recipes import RECIPES
from eachmask.weights.catalogue import bundled, entries, followers
from eachmask.weights.file import read_info

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def anchors(text: str) -> set[str]:
    """The names that a page's headings get."""
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target.read_text()), f"{page.name} links to {link}"


@each_page
def test_files_that_a_page_names_are_there(page: Path) -> None:
    """`src/...`, `tests/...` and so on in backquotes, and rooms of the architecture page."""
    text = page.read_text()
    made = set(re.findall(r"<!-- file: (\S+) -->", text))  # by whoever follows docs/extending.md
    for name in set(re.findall(r"`((?:src|tests|docs|examples|benchmarks)/[\w./-]+)`", text)) - made:
        assert (ROOT / name).exists(), f"{page.name} speaks of {name}"


def test_architecture_names_every_room() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    for path in (ROOT / "src" / "eachmask").iterdir():
        if path.suffix == ".py" and not path.name.startswith("_") or (path / "__init__.py").is_file():
            name = path.name + ("/" if path.is_dir() else "")
            assert name in text, f"docs/architecture.md does not say what {name} is"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["models.md", "commands.md"])
def test_generated_pages_are_of_today(page: str, generate: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EACHMASK_CACHE", "none")
    written = generate.PAGES[page]()
    assert (ROOT / "docs" / page).read_text() == written, f"docs/{page} is out of date: run `make docs`"


def test_every_option_is_documented(generate: ModuleType) -> None:
    assert " |  |\n" not in generate.commands_page()


@pytest.mark.parametrize("name", sorted(bundled()))
def test_card_in_the_file_is_the_card_in_the_documents(name: str) -> None:
    assert read_info(bundled()[name]).card.strip() == (ROOT / "docs" / "models" / f"{name}.md").read_text().strip()


@each_page
def test_commands_on_a_page_are_understood(page: Path) -> None:
    """Every option exists and none is missing; models that have a plain name do, too. Nothing is run."""
    for line in re.findall(r"^ *(?:\.venv/bin/)?eachmask ([a-z]+ [^`\n]*[^`\s])$", page.read_text(), re.MULTILINE):
        command, *arguments = shlex.split(re.sub(r"\[.*?\]", "", line), comments=True)
        if command not in COMMANDS or "..." in arguments:
            continue
        module, kind, *_ = COMMANDS[command]
        try:
            options = tyro.cli(getattr(import_module(module), kind), args=arguments)
        except SystemExit:
            pytest.fail(f"{page.name}: eachmask {line}")
        name = str(getattr(options, "model", None) or "auto")
        if re.fullmatch(r"[a-z][a-z0-9_]*", name):
            added = re.findall(r'^    "(\w+)": "[\w.]+",$', page.read_text(), re.MULTILINE)  # docs/extending.md
            known = {*VARIANTS, *CLASSICS, *RECIPES, *bundled(), *entries(), *followers(), *added, ONE_SHOT, "auto"}
            assert name in known, f"{page.name}: eachmask {line}"
