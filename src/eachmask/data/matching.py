"""Classes matched by name: a model's, or a results file's, with a data set's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eachmask.structures import Category, UserError
from eachmask.structures.category import nearest_labels


def match_categories(
    known: Sequence[Category], own: Sequence[Category], also: Mapping[str, int] | None = None
) -> tuple[dict[int, int], list[str]]:
    """The model's label -> the data's label, by name (case does not matter), and what to note.

    A class that the data does not have is measured as its nearest ancestor that the data has: a cat as an animal.

    Args:
        also: further names of the data's labels; its own names come first.

    Raises:
        UserError: not one class in common.
    """
    if [category.name for category in known] == [category.name for category in own]:
        return {i: i for i in range(len(known))}, []  # also where two have the same name
    place = {name.casefold(): i for name, i in (also or {}).items()}
    place |= {category.name.casefold(): i for i, category in enumerate(own)}
    labels = nearest_labels(known, place)
    if not labels and len(known) == len(own) == 1:
        return {0: 0}, [f"the model's only class {known[0].name!r} is measured as the data's {own[0].name!r}"]
    if not labels:
        raise UserError(
            f"the model knows {_some(known)}, the annotations have {_some(own)}: no class in common, so there is "
            "nothing to measure; rename the categories of the annotations"
        )
    unknown = [c for i, c in enumerate(own) if i not in labels.values()]
    return labels, [f"the model does not know: {_some(unknown)}"] if unknown else []


def _some(categories: Sequence[Category]) -> str:
    names = [category.name for category in categories]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
