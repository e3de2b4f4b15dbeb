"""Objects followed through the pages of a stack or the frames of a video, from one on which a person has drawn them.

An object has one number, its track, on all of them. What a person draws or corrects stays: following ends there for
that object, so that a correction concerns what comes after it, up to the next one.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from eachmask.data.formats.label_maps import numbers_in
from eachmask.files.atomic import write_bytes, write_text
from eachmask.files.png import png
from eachmask.structures import RLE, UserError
from eachmask.studio.history import Draft
from eachmask.studio.objects import Drawn, mask_of
from eachmask.studio.project import Project

MAX_OBJECTS = 254
"""That are followed at a time: a label map of 8 bits, whose 255 says that nobody knows."""
FIRST, MARKS = "first.png", "marks.json"


def way(project: Project, index: int, back: bool) -> list[int]:
    """The images along which objects are followed, the one where they are marked first.

    Raises:
        UserError: there is no other one.
    """
    project.item(index)
    clip = project.clips[index]
    found = list(range(index, clip.start - 1, -1) if back else range(index, clip.stop))
    if len(found) < 2:
        raise UserError(f"no page or frame comes {'before' if back else 'after'} this one: choose another one")
    return found


def mark(project: Project, index: int, chosen: Sequence[int] | None, folder: Path) -> None:
    """Give the objects of an image their tracks, and write them down for ``eachmask track --first``.

    Args:
        chosen: ids; None: all objects but crowds.

    Raises:
        UserError: there are none, or too many.
    """
    with project.lock:
        here = project.history(index).objects
        objects = [one for key, one in here.items() if not one.crowd and (chosen is None or key in chosen)]
        if not objects:
            raise UserError("there is nothing to follow: mark an object first")
        if len(objects) > MAX_OBJECTS:
            raise UserError(f"{MAX_OBJECTS} objects are followed at a time: select some of them")
        marked = _numbered(project, index, objects)

        def put(draft: Draft) -> None:
            for one in marked:
                if one != here[one.id]:
                    draft.put("objects", one)

        project.change(index, put)
    labels = RLE.cat([mask_of(one, project.size(index)) for one in marked]).to_label_map()
    write_bytes(folder / FIRST, png(labels.astype(np.uint8)))
    rows = [[one.track, one.category] for one in marked]
    write_text(folder / MARKS, json.dumps({"tracks": rows, "all": chosen is None}))


def _numbered(project: Project, index: int, objects: Sequence[Drawn]) -> list[Drawn]:
    """With tracks, each its own; that a person has them followed means that they are right."""
    known = (one.track for place in project.clips[index] for one in project.history(place).objects.values())
    new, taken, marked = itertools.count(max(known, default=0) + 1), set[int](), []
    for one in objects:
        track = one.track if one.track and one.track not in taken else next(new)
        taken.add(track)
        marked.append(replace(one, track=track, source="person"))
    return marked


def take(project: Project, places: Sequence[int], folder: Path, maps: Sequence[Path]) -> dict[str, Any]:
    """Take what was found, see the beginning of this file; what the page is told of it.

    Args:
        places: from :func:`way`.
        folder: of :func:`mark`.
        maps: label maps of as many of the images as are done.
    """
    marks = json.loads((folder / MARKS).read_text(encoding="utf-8"))
    held: set[int] = set()
    for index, path in zip(places[1:], maps[1:], strict=False):
        labels = numbers_in(path)
        masks = RLE.from_label_map(labels).to_coco()
        counts = dict(zip(np.unique(labels[labels > 0]).tolist(), (str(mask["counts"]) for mask in masks), strict=True))
        with project.lock:
            here = {one.track: one for one in project.history(index).objects.values() if one.track}
            held |= {track for track, one in here.items() if one.source == "person"}
            found = {track: (category, counts.get(k)) for k, (track, category) in enumerate(marks["tracks"], start=1)}
            if marks["all"]:  # what was deleted where they are marked is gone here too
                found |= {track: (0, None) for track in here if track not in found}
            project.change(index, _Found(here, {track: one for track, one in found.items() if track not in held}))
    return {"objects": len(marks["tracks"]), "images": max(0, len(maps) - 1)}


class _Found:
    """Puts what was found on an image in the place of what was there of the same tracks.

    Args:
        here: by track.
        found: category and runs by track; None: it is not there.
    """

    def __init__(self, here: dict[int, Drawn], found: dict[int, tuple[int, str | None]]) -> None:
        self.here, self.found = here, found

    def __call__(self, draft: Draft) -> None:
        for track, (category, counts) in self.found.items():
            before = self.here.get(track)
            if counts is None and before is not None:
                draft.drop("objects", before.id)
            elif counts is not None and (before is None or (before.category, before.counts) != (category, counts)):
                key = draft.new_id() if before is None else before.id
                draft.put("objects", Drawn(key, category, counts, source="model", track=track))
