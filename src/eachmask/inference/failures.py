"""What went wrong with one image, in a sentence."""

from __future__ import annotations

import torch

from eachmask.structures import UserError


def why(error: Exception, what: str, name: str) -> str:
    """An exception as one sentence about the image."""
    if isinstance(error, UserError):
        return f"{name} could not be {what}: {error}"
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "not enough memory" in str(error):
        return f"{name} needs more memory than there is: use --tile, a smaller --batch or another device"
    detail = " ".join(str(error).split())[:200]
    return f"{name} could not be {what} ({type(error).__name__}: {detail})"
