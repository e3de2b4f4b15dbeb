"""Actions of a person as changes of one image; nothing here touches the disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from eachmask.structures import UserError
from eachmask.structures.polygons import Polygons
from eachmask.studio.history import Delta, Draft, History
from eachmask.studio.objects import Drawn, Size, counts_of, cut, filled, mask_of, not_empty, stroked, united, without
from eachmask.studio.schemas import Action


def change_of(action: Action, history: History, size: Size, known: Sequence[int], other: Sequence[Drawn] = ()) -> Delta:
    """What an action changes.

    Args:
        size: (height, width) of the image.
        known: ids of the categories.
        other: the objects of the image that is copied from.

    Raises:
        UserError: it makes no sense: there is no such object or class, or no pixel is left.
    """
    if action.category is not None and action.category not in known:
        raise UserError(f"there is no class {action.category}: add it first")
    draft = Draft(history)
    if action.kind == "copy_from":
        for one in other:
            draft.put("objects", replace(one, id=draft.new_id(), source="person", track=0))
    else:
        EDITS[action.kind](action, draft, size)
    return draft.delta


def _found(draft: Draft, key: int | None) -> Drawn:
    if key not in draft.history.objects:
        raise UserError(f"there is no object {key} on this image any more: load it again")
    return draft.history.objects[key]


def _chosen(action: Action) -> list[int]:
    return action.ids or ([] if action.id is None else [action.id])


def _category(action: Action) -> int:
    if action.category is None:
        raise UserError("choose a class for the object")
    return action.category


def _add(action: Action, draft: Draft, size: Size) -> None:
    counts = counts_of(filled(action.rings or [], size))
    extra = {"crowd": bool(action.crowd), "comment": action.comment or "", "attributes": action.attributes or {}}
    draft.put("objects", Drawn(draft.new_id(), _category(action), counts, **extra))  # type: ignore[arg-type]


def _change(action: Action, draft: Draft, size: Size) -> None:
    names = ("category", "crowd", "comment", "attributes", "track")
    new = {name: value for name in names if (value := getattr(action, name)) is not None}
    for key in _chosen(action):
        draft.put("objects", replace(_found(draft, key), **new))


def _reshape(action: Action, draft: Draft, size: Size) -> None:
    counts = counts_of(filled(action.rings or [], size))
    draft.put("objects", replace(_found(draft, action.id), counts=counts, source="person", score=None))


def _paint(action: Action, draft: Draft, size: Size) -> None:
    stroke = stroked(action.stroke, action.radius, size)
    if action.id is None:
        draft.put("objects", Drawn(draft.new_id(), _category(action), counts_of(not_empty(stroke))))
        return
    one = _found(draft, action.id)
    mask = mask_of(one, size)
    mask = not_empty(without(mask, stroke) if action.erase else united([mask, stroke]))
    draft.put("objects", replace(one, counts=counts_of(mask), source="person", score=None))


def _remove(action: Action, draft: Draft, size: Size) -> None:
    for key in _chosen(action):
        draft.drop("objects", _found(draft, key).id)


def _merge(action: Action, draft: Draft, size: Size) -> None:
    chosen = [_found(draft, key) for key in action.ids]
    if len(chosen) < 2:
        raise UserError("choose two objects or more to merge")
    mask = united([mask_of(one, size) for one in chosen])
    draft.put("objects", replace(chosen[0], counts=counts_of(mask), source="person", score=None))
    for one in chosen[1:]:
        draft.drop("objects", one.id)


def _split(action: Action, draft: Draft, size: Size) -> None:
    one = _found(draft, action.id)
    if len(action.line) < 4 or len(action.line) % 2:
        raise UserError("a line needs two points at least, each an x and a y")
    for number, part in enumerate(cut(mask_of(one, size), action.line)):
        key, track = (draft.new_id(), 0) if number else (one.id, one.track)
        draft.put("objects", replace(one, id=key, counts=counts_of(part), source="person", score=None, track=track))


def _fill_holes(action: Action, draft: Draft, size: Size) -> None:
    for key in _chosen(action):
        one = _found(draft, key)
        whole = Polygons(mask_of(one, size).to_polygons().outers, (), size).to_rle()
        draft.put("objects", replace(one, counts=counts_of(whole)))


def _take(draft: Draft, keys: Sequence[int]) -> None:
    for key in keys:
        if key not in draft.history.proposals:
            raise UserError(f"there is no proposal {key} on this image any more: load it again")
        draft.put("objects", draft.history.proposals[key])
        draft.drop("proposals", key)


def _accept(action: Action, draft: Draft, size: Size) -> None:
    _take(draft, action.ids)


def _accept_above(action: Action, draft: Draft, size: Size) -> None:
    _take(draft, [key for key, one in draft.history.proposals.items() if (one.score or 0) >= action.score])


def _reject(action: Action, draft: Draft, size: Size) -> None:
    for key in action.ids:
        if key in draft.history.proposals:
            draft.drop("proposals", key)


def _review(action: Action, draft: Draft, size: Size) -> None:
    draft.set("reviewed", action.reviewed)


def _comment(action: Action, draft: Draft, size: Size) -> None:
    draft.set("comment", action.comment or "")


EDITS: dict[str, Callable[[Action, Draft, Size], None]] = {
    "add": _add, "change": _change, "reshape": _reshape, "paint": _paint, "remove": _remove, "merge": _merge,
    "split": _split, "fill_holes": _fill_holes, "accept": _accept, "accept_above": _accept_above, "reject": _reject,
    "review": _review, "comment": _comment,
}  # fmt: skip
