"""The one error class that is a user's business."""

from __future__ import annotations


class UserError(ValueError):
    """Something the user can mend: one sentence naming file, annotation and remedy.

    The command line prints it without a traceback and exits with status 2.
    """
