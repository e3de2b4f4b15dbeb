"""Which models can be had by name, where their weights come from, and what is said about them by whom.

Bundled models are files beside this module, and each file speaks for itself (``weights.file.read_info``). The
catalogue (``catalogue.toml``) holds what cannot be bundled: weights that others publish. Their scores are *published*
ones, reported by the source; scores that we measured are in the model files alone, so that the two are never mixed up.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from eachmask.structures import Category, Preprocess, UserError
from eachmask.structures.class_lists import ADE20K_CATEGORIES
from eachmask.structures.errors import nearest
from eachmask.weights.coco_categories import ANYTHING, FOREGROUND, SETS
from eachmask.weights.header import ModelInfo
from eachmask.weights.schema import Range, Schema

BUNDLED = Path(__file__).parent / "bundled"
"""Folder of the models that the package brings along."""
FILE = Path(__file__).with_name("catalogue.toml")
_SCHEMA = Schema(ranges={"size_mb": Range(0.1, 1e5), "published.value": Range(0, 100)})


@dataclass(frozen=True)
class Score:
    """One number that the source reports."""

    metric: str
    value: float
    data: str
    """What it was measured on."""
    unit: Literal["per cent", "clicks"] = "per cent"

    def __str__(self) -> str:
        return f"{self.metric} {self.value:.1f}" if self.unit == "per cent" else f"{self.metric} {self.value:.2f}"


@dataclass(frozen=True)
class Checkpoint:
    """A file that somebody else publishes."""

    name: str
    """What the user types."""
    summary: str
    """One line for lists."""
    source: str
    """Who publishes the weights, in words."""
    license: str
    url: str
    sha256: str
    """Hexadecimal SHA-256 of the file at ``url``, or the leading digits of it where the source publishes no more."""
    size_mb: float
    """Of the download, in units of a million bytes."""

    @property
    def host(self) -> str:
        """Where the download comes from."""
        return urlsplit(self.url).hostname or self.url


@dataclass(frozen=True)
class Follower(Checkpoint):
    """Weights that are read as their authors publish them, to follow marked objects."""

    def card(self) -> str:
        """What is known of it, Markdown."""
        return (
            f"# {self.name}\n\n{self.summary}.\n\n"
            f"- Weights: {self.source}, {self.size_mb:.0f} MB from {self.host}, fetched on first use\n"
            f"- Use: `eachmask track VIDEO --first MASKS --model {self.name}`\n"
            f"- License: {self.license}\n"
        )


@dataclass(frozen=True)
class Entry(Checkpoint):
    """Weights that become a model file of ours; the name is also that of the variant function that they fit."""

    task: Literal["boxes", "instances", "keypoints", "semantic", "panoptic", "matting"]
    published: tuple[Score, ...]
    """As the source reports them."""
    converter: str
    """Module below ``eachmask.weights`` whose ``convert`` renames the source's entries to ours."""
    categories: tuple[Category, ...]
    preprocess: Preprocess = Preprocess()
    config: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the variant function that these weights want."""
    object_diameter: float | None = None
    """Of the objects that they have learnt from, px as the network sees them; None: not known."""

    @property
    def num_classes(self) -> int:
        """Categories that occur; a source's unused outputs are no classes."""
        return sum(category.name != "N/A" for category in self.categories)

    def by_metric(self) -> dict[str, float]:
        """The published scores, each in its unit."""
        return {score.metric: score.value for score in self.published}

    def info(self, sha256: str | None = None) -> ModelInfo:
        """Header of the model file that the download becomes.

        Args:
            sha256: the whole digest of the file that was read; by default as much of it as is published.
        """
        return ModelInfo(
            variant=self.name,
            config=dict(self.config),
            preprocess=self.preprocess,
            categories=self.categories,
            license=self.license,
            training={"source": self.source, "url": self.url, "sha256": sha256 or self.sha256},
            name=self.name,
            card=self.card(),
            object_diameter=self.object_diameter,
        )

    def card(self) -> str:
        """The model card, Markdown."""
        data = ", ".join(dict.fromkeys(score.data for score in self.published))
        scores = ", ".join(str(score) for score in self.published) or "none"
        unit = self.published[0].unit if self.published else "per cent"
        return (
            f"# {self.name}\n\n{self.summary}.\n\n"
            f"- Weights: {self.source}, {self.size_mb:.0f} MB from {self.host}, fetched on first use\n"
            f"- Published scores ({data or 'for these weights'}, {unit}): {scores}\n"
            f"- Categories: {self._said_of_categories()}\n"
            f"- License: {self.license}\n"
        )

    def _said_of_categories(self) -> str:
        named = [category.name for category in self.categories]
        if named[0] == "background":
            return f"{self.num_classes} of PASCAL VOC's, background among them"
        if self.task == "semantic":
            return (
                f"the {self.num_classes} of {'ADE20K' if self.num_classes == len(ADE20K_CATEGORIES) else 'Cityscapes'}"
            )
        if named == ["cell"]:
            return "cells"
        if self.categories in (ANYTHING, FOREGROUND):
            return "objects without names" if self.categories == ANYTHING else "none"
        return f"{self.num_classes} of COCO's"


@cache
def entries() -> Mapping[str, Entry]:
    """Name -> everything that is fetched on first use, in the catalogue's order."""
    return read_catalogue(FILE.read_text(encoding="utf-8"))


@cache
def followers() -> Mapping[str, Follower]:
    """Name -> what follows marked objects and is fetched on first use."""
    tables = tomllib.loads(FILE.read_text(encoding="utf-8"))["followers"]
    own = {name: _SCHEMA.read(Follower, {"name": name} | values) for name, values in tables.items()}
    return own | {name: _as_published(entry) for name, entry in entries().items() if entry.converter == "from_sam2"}


def _as_published(entry: Entry) -> Follower:
    return Follower(**{field.name: getattr(entry, field.name) for field in fields(Follower)})


def read_catalogue(text: str) -> dict[str, Entry]:
    """A catalogue's entries by name.

    Raises:
        SchemaError: an entry lacks a key, or has one of another type or out of its range.
        KeyError: an entry names a source, shared settings or categories that are not there.
    """
    tables = tomllib.loads(text)
    return {name: _entry(name, values, tables) for name, values in tables["models"].items()}


def _entry(name: str, values: dict[str, Any], tables: Mapping[str, Any]) -> Entry:
    """What a model's table leaves out is its source's; what several share, it gives by name."""
    source = tables["sources"][values["source"]]
    values = {"name": name} | source | values | {"source": source["source"]}
    for key in ("preprocess", "config"):
        if isinstance(values.get(key), str):
            values[key] = tables[key][values[key]]
    if "preprocess" in values:
        values["preprocess"] = {key: None if value is False else value for key, value in values["preprocess"].items()}
    values["categories"] = SETS[values["categories"]]
    entry: Entry = _SCHEMA.read(Entry, values)
    return entry


def bundled() -> dict[str, Path]:
    """Name -> file of the models that work without a network, in alphabetical order."""
    return {path.stem: path for path in sorted(BUNDLED.glob("*.safetensors"))}


def find(name: str) -> Entry:
    """The catalogue's entry of that name.

    Raises:
        UserError: there is none; the message has the nearest names.
    """
    if name in entries():
        return entries()[name]
    if name in followers():
        raise UserError(f"{name} follows what is marked in a video: eachmask track VIDEO --first MASKS --model {name}")
    raise UserError(
        f"there are no weights by the name {name!r}; did you mean {nearest(name, [*bundled(), *entries()])}? A model "
        "file of one's own is given by its path, ending in .safetensors, or by the folder of its run"
    )
