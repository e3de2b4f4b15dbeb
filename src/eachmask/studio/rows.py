"""What the page is told of the project and its images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from eachmask.draw.colors import color
from eachmask.structures import UserError
from eachmask.studio.history import History
from eachmask.studio.items import COLORS
from eachmask.studio.objects import shown
from eachmask.studio.schemas import CategoryOut, ChannelOut, ImageOut, ImageRow, ImageRows, ModelOut, ProjectOut
from eachmask.weights.catalogue import bundled

if TYPE_CHECKING:
    from eachmask.studio.app import Studio

PROPOSER = "objects"
"""The bundled model that comes first where none is named: it finds objects of any kind."""
NOT_FINDING = {"mattes", "memory"}
"""Bundled models that find no objects: one cuts out what is marked, the other follows it."""


def project_out(studio: Studio) -> ProjectOut:
    """The folder as a whole."""
    project = studio.project
    colors = ["#{:02x}{:02x}{:02x}".format(*color(label)) for label in range(len(project.categories))]
    categories = [
        CategoryOut(id=one.id, name=one.name, parent=one.parent, color=shade)
        for one, shade in zip(project.categories, colors, strict=True)
    ]
    trained = [str(job.run) for job in studio.jobs.jobs.values() if job.order.kind == "train" and job.state == "done"]
    carried = sorted({*bundled()} - NOT_FINDING, key=lambda name: (name != PROPOSER, name))
    names = dict.fromkeys([*filter(None, [studio.model]), *reversed(trained), *carried])
    return ProjectOut(
        name=project.folder.name,
        count=len(project.items),
        format=project.format,
        labels_path=str(project.labels),
        read_only=project.cannot_save,
        unsaved=project.unsaved,
        categories=categories,
        models=[ModelOut(name=name) for name in names],
        model=studio.model,
    )


def image_rows(studio: Studio, start: int, count: int, order: Literal["name", "doubt", "objects"]) -> ImageRows:
    """A part of the list: by name, the most doubtful first, or the fullest first."""
    project = studio.project
    places = list(range(len(project.items)))
    if order == "doubt":
        places.sort(key=lambda index: -(doubt_of(project.counts(index)[1]) or 0))
    elif order == "objects":
        places.sort(key=lambda index: -project.counts(index)[0])
    rows = [_row(studio, index) for index in places[start : start + count]]
    return ImageRows(total=len(places), images=rows)


def doubt_of(history: History | None) -> float | None:
    """How unsure the least sure proposal of an image is: 0 at a score of 0 or 1, 1 at one half."""
    if history is None or not history.proposals:
        return None
    scores = [one.score for one in history.proposals.values() if one.score is not None]
    return max((1 - abs(2 * score - 1) for score in scores), default=None)


def _row(studio: Studio, index: int) -> ImageRow:
    number, history = studio.project.counts(index)
    size = studio.project.known_size(index)
    return ImageRow(
        index=index,
        name=studio.project.names[index],
        width=None if size is None else size[1],
        height=None if size is None else size[0],
        objects=number,
        proposals=0 if history is None else len(history.proposals),
        reviewed=history is not None and bool(history.fields["reviewed"]),
        doubt=doubt_of(history),
        problem=studio.problems.get(index),
    )


def image_out(studio: Studio, index: int) -> ImageOut:
    """One image with its objects.

    Raises:
        UserError: it cannot be read; the list says so from then on.
    """
    project = studio.project
    item, clip = project.item(index), project.clips[index]
    try:
        size, pyramid = project.size(index), studio.images.pyramid(item)
    except UserError as error:
        studio.problems[index] = str(error)
        raise
    studio.problems.pop(index, None)
    history = project.history(index)
    return ImageOut(
        index=index,
        name=project.names[index],
        width=size[1],
        height=size[0],
        first=clip.start,
        counts=[project.counts(place)[0] for place in clip] if len(clip) > 1 else [],
        channels=[
            ChannelOut(color="#" + COLORS[k % len(COLORS)], window=window, span=span)
            for k, (window, span) in enumerate(zip(pyramid.windows, pyramid.spans, strict=True))
        ],
        bits=pyramid.bits,
        levels=len(pyramid.levels),
        span=pyramid.span,
        window=pyramid.limits,
        revision=history.revision,
        can_undo=bool(history.done),
        can_redo=bool(history.undone),
        comment=history.fields["comment"],
        reviewed=history.fields["reviewed"],
        objects=shown(list(history.objects.values()), size),
        proposals=shown(list(history.proposals.values()), size),
    )
