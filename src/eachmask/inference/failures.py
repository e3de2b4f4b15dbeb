"""What went wrong with one image, in a sentence."""

from __future__ import annotations

import torch

from eachmask.structures import UserError

_OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "cannot allocate memory", "out of memory")


def why(error: Exception, what: str, name: str) -> str:
    """An exception as one sentence about the image."""
    if isinstance(error, UserError):
        return f"{name} could not be {what}: {error}"
    if is_out_of_memory(error):
        return f"{name} needs more memory than there is: use --tile, a smaller --batch or another device"
    detail = " ".join(str(error).split())[:200]
    return f"{name} could not be {what} ({type(error).__name__}: {detail})"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was not enough: torch says it on CPUs in a RuntimeError, in the words of the system."""
    text = str(error).casefold()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in text for words in _OUT_OF_MEMORY)
