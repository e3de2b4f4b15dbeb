"""Tracks as ``eachmask track`` writes them: a table, YouTube-VIS, MOTS text, DAVIS's label maps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from eachmask.batch.track_files import MADE, Track, TrackedFrame, TrackFiles
from eachmask.data.images.clip import clip
from eachmask.data.images.inputs import Source
from eachmask.data.images.video import FRAME_RATE
from eachmask.files.journal import Journal
from eachmask.structures import UserError
from eachmask.studio.items import Item
from eachmask.studio.objects import Drawn, instances_of
from eachmask.studio.project import Project

SAVE = ("davis", "mots")


def write_tracks(project: Project, folder: Path) -> None:
    """A folder for each stack, video or row of files in which something has a track.

    Raises:
        UserError: nothing has, or a frame is broken.
    """
    rows = dict.fromkeys(row for row in project.clips if len(row) > 1)
    tracked = [
        row for row in rows if any(one.track for place in row for one in project.history(place).objects.values())
    ]
    if not tracked:
        raise UserError("no object has a number in a video: follow one first")
    for row in tracked:
        _write(project, row, folder / _name(project.items[row.start]))


def _name(first: Item) -> str:
    """The file that the pages or frames are of; of a row of files the first."""
    return first.name.rpartition("#")[0] or str(Path(first.name).with_suffix(""))


def _write(project: Project, row: range, out: Path) -> None:
    tracks = defaultdict[int, Track](Track)
    for frame in _frames(project, row):
        found = frame.found
        assert found.track_ids is not None and found.scores is not None
        for track, label, score in zip(
            found.track_ids.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True
        ):
            tracks[track].see(label, score)
    out.mkdir(parents=True)
    sources = [Source(project.items[place].path, f"{k:06d}", f"{k:06d}") for k, place in enumerate(row)]
    with Journal(out, {}, MADE) as journal:
        TrackFiles(journal, sources, project.categories, SAVE).write(_frames(project, row), tracks)


def _frames(project: Project, row: range) -> Iterator[TrackedFrame]:
    for number, place in enumerate(row):
        item = project.items[place]
        drawn = _drawn(project, place)
        found = instances_of(drawn, project.size(place), project.categories)
        scores = torch.ones(len(drawn)) if found.scores is None else found.scores
        ids = torch.tensor([one.track for one in drawn], dtype=torch.int64)
        seconds = clip(item.path).seconds[item.place - 1] if item.kind == "frame" else number / FRAME_RATE
        yield TrackedFrame(seconds, replace(found, scores=scores, track_ids=ids))


def _drawn(project: Project, place: int) -> list[Drawn]:
    return [one for one in project.history(place).objects.values() if one.track]
