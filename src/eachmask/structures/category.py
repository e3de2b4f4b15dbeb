"""Category: what a label means. Supercategories, narrower names, things and stuff are one tree.

A category names the one above it: COCO's *cat* has the parent *animal*, whether *animal* is a category of its own (of a
model that is not always sure which animal it sees) or only a name to ask by.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Integral

from eachmask.structures.checks import told
from eachmask.structures.errors import UserError


@dataclass(frozen=True)
class Category:
    """A class of objects or regions; its label is its position in the ``categories`` of what is labeled.

    >>> Category(17, "cat", parent="animal").parent
    'animal'
    """

    id: int
    """The data set's own number (COCO's go from 1 to 90 with gaps)."""
    name: str
    parent: str = ""
    """Name of the category above it (COCO's ``supercategory``); empty where there is none."""
    is_thing: bool = True
    """It can be counted (a car); False: stuff (sky)."""
    keypoints: tuple[str, ...] = ()
    """Names of its keypoints, in their order; () where it has none or they have no names."""
    skeleton: tuple[tuple[int, int], ...] = ()
    """Pairs of keypoints, counted from 0, with a limb between them, for drawing."""


def lineages(categories: Sequence[Category]) -> list[tuple[str, ...]]:
    """Each category's name and those above it, the nearest first.

    >>> lineages([Category(1, "cat", "animal"), Category(2, "animal", "living")])
    [('cat', 'animal', 'living'), ('animal', 'living')]
    """
    parents = {category.name: category.parent for category in reversed(categories)}
    found = []
    for category in categories:
        names, above = [category.name], category.parent
        while above and above not in names:  # COCO's person is a person; a broken file may go round in circles
            names.append(above)
            above = parents.get(above, "")
        found.append(tuple(names))
    return found


def labels_among(categories: Sequence[Category], classes: Sequence[int | str] | str) -> set[int]:
    """The labels that are meant by class names, labels or names of ancestors: "animal" means all that is below it.

    Raises:
        UserError: a class is none of these; the sentence names those that sound alike.

    >>> categories = (Category(1, "cat", "animal"), Category(2, "dog", "animal"), Category(3, "car", "vehicle"))
    >>> sorted(labels_among(categories, ["animal"])), labels_among(categories, "car")
    ([0, 1], {2})
    """
    above = lineages(categories)
    known = {name for names in above for name in names}
    chosen: set[int] = set()
    for given in [classes] if isinstance(classes, str) or not isinstance(classes, Iterable) else classes:
        if isinstance(given, Integral) and not isinstance(given, bool):
            chosen.add(int(given))
            if not categories:
                continue
            given = categories[int(given)].name if 0 <= given < len(categories) else str(given)
        if not isinstance(given, str):
            raise UserError(f"a class is a name or a label, not {told(given)}: say classes=['person'] or classes=[0]")
        if given not in known:
            raise UserError(_unknown(given, known))
        chosen |= {label for label, names in enumerate(above) if given in names}
    return chosen


def nearest_labels(categories: Sequence[Category], places: Mapping[str, int]) -> dict[int, int]:
    """Label -> that of its own name elsewhere, else of its nearest ancestor there; without those that have none.

    Args:
        places: name in lower case -> label.

    >>> categories = (Category(1, "cat", "animal"), Category(2, "car"), Category(3, "tree"))
    >>> nearest_labels(categories, {"animal": 0, "car": 1})
    {0: 0, 1: 1}
    """
    found = {}
    for label, names in enumerate(lineages(categories)):
        here = [places[folded] for name in names if (folded := name.casefold()) in places]
        if here:
            found[label] = here[0]
    return found


def _unknown(name: str, known: set[str]) -> str:
    if not known:
        return f"there is no class {name!r}, for these classes have no names: choose by label, classes=[0]"
    folded = {other.casefold(): other for other in sorted(known)}
    near = [folded[other] for other in get_close_matches(name.casefold(), folded, n=3)]
    shown = sorted(known)[:8]
    more = " ..." if len(known) > 8 else ""
    remedy = f"did you mean {' or '.join(near)}" if near else f"choose among {', '.join(shown)}{more}"
    return f"there is no class {name!r}: {remedy}"
