"""The folder that is worked on: its images, its classes, what is drawn on each image, and the journal of it all."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eachmask.data.problems import Problem
from eachmask.data.reading import read_any
from eachmask.data.split import Split
from eachmask.structures import RLE, Category, Instances, UserError
from eachmask.studio.edits import change_of
from eachmask.studio.history import Delta, Draft, History, Step
from eachmask.studio.in_place import digests
from eachmask.studio.items import Item, clips_of, items_of
from eachmask.studio.journal import ActionJournal
from eachmask.studio.objects import Drawn, Size, drawn_of, instances_of, mask_of
from eachmask.studio.schemas import Action
from eachmask.weights.fetch import cache_dir

HIDDEN = ".eachmask-studio"
"""Folder of the journal in the folder of images; a search for images passes over it."""
LABELS = "annotations"
"""Folder of the annotations in the folder of images, where no other is named."""


class StaleError(Exception):
    """Somebody else changed the image meanwhile."""


@dataclass(frozen=True)
class Known:
    """Annotations that were there: where to find those of one image."""

    split: Split
    index: int
    part: str
    """Name of the split."""


class Project:
    """One folder.

    Args:
        folder: of the images, with its subfolders.
        labels: folder or file of annotations in any format of objects; by default ``annotations`` in the folder.

    Raises:
        UserError: no such folder, no images, annotations that cannot be read, or another studio has it.
    """

    def __init__(self, folder: Path, labels: Path | None = None) -> None:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder: name the folder of the images")
        self.folder = folder.resolve()
        self.labels = (labels or folder / LABELS).resolve()
        inside = self.labels.is_relative_to(self.folder) and self.labels != self.folder
        self.items = [item for item in items_of(self.folder) if not (inside and item.path.is_relative_to(self.labels))]
        if not self.items:
            raise UserError(f"{folder} holds no images: put some there, or name another folder")
        self.names = [item.name for item in self.items]
        self.clips = clips_of(self.items)
        """For each image the row of images that it is in."""
        self.read_only = not os.access(self.folder, os.W_OK)
        self.format = "coco"
        self.categories: tuple[Category, ...] = (Category(1, "object"),)
        self.problems: list[Problem] = []
        """What the annotations hold that cannot be used, or was guessed."""
        self.known: dict[str, Known] = {}
        self.splits: tuple[str, ...] = ("all",)
        self._on_disk: tuple[Category, ...] = ()
        self.lock = threading.RLock()
        self.on_change: Callable[[int, int], None] = lambda index, revision: None
        """Told an image's index and its new revision."""
        self._histories: dict[str, History] = {}
        self._sizes: dict[int, Size] = {}
        self.disk: dict[str, str] = {}
        """Annotation file -> its SHA-256 as it was last read or written."""
        if self.labels.is_file() or any(map(_is_whole, self.labels.rglob("*"))):
            self._read_labels()
        elif labels is not None and not self.labels.parent.is_dir():
            raise UserError(f"{labels} does not exist, nor the folder that it would be in")
        self.journal = ActionJournal(self.hidden)
        self._replay()

    @property
    def hidden(self) -> Path:
        """Folder of the journal and of what jobs leave: in the folder, or, where that is read-only, in the cache."""
        if not self.read_only:
            return self.folder / HIDDEN
        return cache_dir() / "studio" / hashlib.sha256(str(self.folder).encode()).hexdigest()[:24]

    @property
    def cannot_save(self) -> bool:
        """Whether the annotations would be in a folder that is read-only; the journal then is in the cache."""
        return self.read_only and self.labels.is_relative_to(self.folder)

    def _read_labels(self) -> None:
        data, found = read_any(self.labels, images=self.folder, target=Instances)
        self.format, self.categories = found.name, data.categories or self.categories
        self.problems = data.problems
        places = {item.path.resolve(): item.name for item in self.items if item.kind == "file"}
        by_name = {name.casefold(): item.name for item in self.items for name in (item.stored, item.name)}
        self.splits = tuple(data.splits) or self.splits
        for part, split in data.splits.items():
            for index in range(len(split)):
                name = places.get(split.path(index).resolve()) or by_name.get(split.names[index].casefold())
                if name is not None:
                    self.known[name] = Known(split, index, part)
        self._on_disk = self.categories
        self.disk = self.digests()

    def _replay(self) -> None:
        for entry in self.journal.lines():
            if "categories" in entry:
                self.categories = tuple(Category(**row) for row in entry["categories"])
            elif "saved" in entry:
                for name, revision in entry["saved"].items():
                    self._histories.setdefault(name, History()).saved = revision
                if entry["disk"] != self.disk:
                    self.disk = entry["disk"]  # what is there now was written by others: saving will say so
            elif "base" in entry:
                self._histories[entry["image"]] = _based(entry["base"])
            else:
                self._histories[entry["image"]].step(entry["step"], entry.get("delta"))

    def item(self, index: int) -> Item:
        """An image.

        Raises:
            UserError: there is none of that number.
        """
        if not 0 <= index < len(self.items):
            raise UserError(f"there is no image {index}: the folder has {len(self.items)}")
        return self.items[index]

    def place_of(self, path: Path) -> int:
        """Of a file's image, or of its first page or frame.

        Raises:
            UserError: it is no image or video.
        """
        found = path.resolve()
        for index, item in enumerate(self.items):
            if item.path.resolve() == found:
                return index
        raise UserError(f"{path} is no image or video: name one, or a folder")

    def size(self, index: int) -> Size:
        """(height, width), of a file from its header; :class:`UserError` where it is broken."""
        if index not in self._sizes:
            self._sizes[index] = self.item(index).size()
        return self._sizes[index]

    def known_size(self, index: int) -> Size | None:
        """The same, where it was read before."""
        return self._sizes.get(index)

    def history(self, index: int) -> History:
        """What is drawn on an image."""
        name = self.item(index).name
        with self.lock:
            if name not in self._histories:
                self._histories[name] = _based(self._base(name))
            return self._histories[name]

    def _base(self, name: str) -> list[dict[str, Any]]:
        known = self.known.get(name)
        if known is None:
            return []
        ids = {category.name: category.id for category in self.categories}
        found = known.split.scored_targets(known.index)
        return [one.to_json() for one in drawn_of(found, "file", ids, 1)]

    def counts(self, index: int) -> tuple[int, History | None]:
        """How many objects an image has, without unpacking them, and its history if there is one."""
        history, known = self._histories.get(self.names[index]), self.known.get(self.names[index])
        if history is not None:
            return len(history.objects), history
        return (0 if known is None else known.split.num_objects_of(known.index)), None

    def act(self, index: int, revision: int | None, action: Action) -> Delta:
        """Do what a person did; on the disk when this returns.

        Raises:
            StaleError: the image has another revision.
            UserError: the action makes no sense.
        """
        with self.lock:
            history = self.history(index)
            self._check(history, revision)
            other = list(self.history(action.image).objects.values()) if action.image is not None else []
            size = self.size(index)
            if action.image is not None and self.size(action.image) != size:
                raise UserError("objects are copied between images of one size alone")
            ids = [category.id for category in self.categories]
            delta = change_of(action, history, size, ids, other)
            return self._step(index, "do", delta) if delta else {}

    def step(self, index: int, revision: int, kind: Step) -> Delta:
        """Undo or redo.

        Raises:
            StaleError: as :meth:`act`.
            UserError: there is nothing to undo or to redo.
        """
        with self.lock:
            history = self.history(index)
            self._check(history, revision)
            if not (history.done if kind == "undo" else history.undone):
                raise UserError(f"there is nothing to {kind}")
            return self._step(index, kind, None)

    def change(self, index: int, make: Callable[[Draft], None]) -> None:
        """A change that no page has asked for; none where nothing is drafted."""
        with self.lock:
            draft = Draft(self.history(index))
            make(draft)
            if draft.delta:
                self._step(index, "do", draft.delta)

    def propose(self, index: int, found: Instances) -> None:
        """Take a model's objects as proposals, in the place of those before; classes that are new are added."""
        with self.lock:
            for category in found.categories:
                if category.name in found.label_names and category.name not in {c.name for c in self.categories}:
                    self.add_category(category.name, category.parent)
            ids = {category.name: category.id for category in self.categories}

            def put(draft: Draft) -> None:
                for key in draft.history.proposals:
                    draft.drop("proposals", key)
                for one in drawn_of(found, "model", ids, draft.new_id()):
                    draft.put("proposals", one)
                draft.set("looks", draft.history.fields["looks"] + 1)

            self.change(index, put)

    def _check(self, history: History, revision: int | None) -> None:
        if revision is not None and revision != history.revision:
            raise StaleError("the image was changed in another tab: load it again")

    def _step(self, index: int, kind: Step, delta: Delta | None) -> Delta:
        name, history = self.names[index], self.history(index)
        if not history.revision:
            self.journal.append({"image": name, "base": [one.to_json() for one in history.objects.values()]})
        self.journal.append({"image": name, "step": kind} | ({} if delta is None else {"delta": delta}))
        applied = history.step(kind, delta)
        self.on_change(index, history.revision)
        return applied

    def add_category(self, name: str, parent: str = "") -> None:
        """A class more.

        Raises:
            UserError: there is one of that name.
        """
        with self.lock:
            if name.casefold() in {category.name.casefold() for category in self.categories}:
                raise UserError(f"there is a class {name!r} already")
            new = Category(max((c.id for c in self.categories), default=0) + 1, name.strip(), parent)
            self.categories = (*self.categories, new)
            self._keep_categories()

    def _keep_categories(self) -> None:
        rows = [{"id": c.id, "name": c.name, "parent": c.parent, "is_thing": c.is_thing} for c in self.categories]
        self.journal.append({"categories": rows})

    def saved(self, disk: dict[str, str]) -> None:
        """What is drawn now is in the annotation files."""
        self.disk, self._on_disk = disk, self.categories
        revisions = {name: history.revision for name, history in self._histories.items() if history.revision}
        for name, revision in revisions.items():
            self._histories[name].saved = revision
        self.journal.append({"saved": revisions, "disk": disk})

    def touched(self) -> list[int]:
        """Places of the images that were changed since they were saved."""
        histories = dict(self._histories)
        found = [(i, histories.get(name)) for i, name in enumerate(self.names)]
        return [i for i, history in found if history is not None and history.revision != history.saved]

    @property
    def unsaved(self) -> int:
        """How many these are."""
        return len(self.touched())

    @property
    def categories_changed(self) -> bool:
        """Since they were saved."""
        return [(c.id, c.name, c.parent) for c in self.categories] != [(c.id, c.name, c.parent) for c in self._on_disk]

    def known_places(self) -> list[int]:
        """Places of the images that the annotations speak of."""
        return [index for index, name in enumerate(self.names) if name in self.known]

    def stored(self, index: int) -> str:
        """What an image is called in the annotations."""
        known = self.known.get(self.names[index])
        return self.items[index].stored if known is None else str(known.split.names[known.index])

    def digests(self) -> dict[str, str]:
        """SHA-256 of each annotation file, by absolute name."""
        return digests(self.labels, {item.path for item in self.items})

    def annotated(self) -> list[int]:
        """Places of the images that have objects, or were looked through."""
        places = []
        for index in range(len(self.items)):
            number, history = self.counts(index)
            if number or (history is not None and history.fields["reviewed"]):
                places.append(index)
        return places

    def targets(self, index: int) -> Instances:
        """What is annotated on an image; :class:`UserError` where it is broken."""
        with self.lock:  # of what nobody has opened nothing is kept: there may be thousands
            history = self._histories.get(self.names[index])
            objects = _based(self._base(self.names[index])).objects if history is None else history.objects
            return instances_of(list(objects.values()), self.size(index), self.categories)

    def mask(self, index: int, key: int) -> RLE:
        """Of one object; :class:`UserError` where it is gone."""
        objects = self.history(index).objects
        if key not in objects:
            raise UserError(f"there is no object {key} on this image any more: load it again")
        return mask_of(objects[key], self.size(index))

    def proposed(self, index: int) -> Instances | None:
        """What the last model that looked at an image had found, whatever became of it; None: none has looked."""
        found = self.history(index).proposed()
        return None if found is None else instances_of(found, self.size(index), self.categories)


def _is_whole(path: Path) -> bool:
    """Whether a path is a file that was written to its end."""
    return path.is_file() and path.suffix != ".part"


def _based(rows: list[dict[str, Any]]) -> History:
    history = History(objects={row["id"]: Drawn(**row) for row in rows})
    history.last_id = max(history.objects, default=0)
    return history
