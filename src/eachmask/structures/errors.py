"""The one error class that is a user's business."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user can fix: one sentence naming file, annotation and remedy.

    The command line prints it without a traceback and exits with status 2.
    """


def nearest(name: str, known: Iterable[str], num: int = 3) -> str:
    """What may have been meant: the most similar of the known names, in words ("a, b or c").

    >>> nearest("mask_rcn", ["mask_rcnn", "fcos", "mask_scoring"], num=2)
    'mask_rcnn or mask_scoring'
    """
    near = difflib.get_close_matches(name, list(known), n=num, cutoff=0.0)
    return " or ".join(filter(None, (", ".join(near[:-1]), near[-1] if near else "")))
