"""On an image that was changed: what nobody touched stays as its record says it, with its own outline, whatever else
the record says, and what is no object at all.

Records are compared by what a reader makes of them: the pixels, the class, whether it is a crowd.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from eachmask.data.formats.segmentations import BROKEN, rasterize_readable
from eachmask.structures import RLE

Record = TypeVar("Record")
Size = tuple[int, int]
"""(height, width), px."""


class Said(NamedTuple):
    """What a record says, as readers see it."""

    row: Mapping[str, Any]
    """``segmentation`` as COCO writes it."""
    what: Hashable
    """Its class, and whether it is a crowd."""
    part_of: Hashable = None
    """Equal where several records are parts of one object; None: it is alone."""


def sorted_out(
    old: Sequence[Record], new: Sequence[Record], size: Size, said: Callable[[Record, Size], Said], *, silent: bool
) -> tuple[list[Record], list[Record]]:
    """The old records that stay, and the new ones that none of them says.

    Args:
        said: what a record says; raises what is wrong with it.
        silent: old records that readers pass over, such as points and lines, stay too.
    """
    there: dict[Hashable, list[list[int]]] = defaultdict(list)
    for places, key in _objects(old, size, said):
        there[key].append(places)
    stay = {place for places in there.pop(None, []) for place in places if silent}
    fresh: list[Record] = []
    for places, key in _objects(new, size, said):
        if key is not None and there[key]:
            stay |= set(there[key].pop(0))
        else:
            fresh += [new[place] for place in places]
    return [old[place] for place in sorted(stay)], fresh


def _objects(
    records: Sequence[Record], size: Size, said: Callable[[Record, Size], Said]
) -> list[tuple[list[int], Hashable]]:
    """The places of each object's records, and what it is; None: it has no pixel, or cannot be read."""
    found: list[tuple[int, Said]] = []
    silent: list[tuple[list[int], Hashable]] = []
    for place, record in enumerate(records):
        try:
            found.append((place, said(record, size)))
        except BROKEN:
            silent.append(([place], None))
    ((_, drawn, _),) = rasterize_readable([(None, [own.row for _, own in found], size)])
    parts: dict[Hashable, list[int]] = defaultdict(list)
    for i, (place, own) in enumerate(found):
        parts[("alone", place) if own.part_of is None else own.part_of].append(i)
    objects = [([found[i][0] for i in own], _key(drawn.masks, own, found[own[0]][1].what)) for own in parts.values()]
    return silent + objects


def _key(masks: RLE, own: Sequence[int], what: Hashable) -> Hashable:
    mask = masks[own] if len(own) == 1 else masks[own].union()
    return (what, mask.to_coco()[0]["counts"]) if int(mask.area()[0]) else None
