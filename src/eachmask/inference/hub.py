"""transformers, which fetches networks from the Hugging Face hub."""

from __future__ import annotations

from typing import Any

from eachmask.structures import UserError


def import_transformers(missing: str) -> Any:
    """The package.

    Args:
        missing: what to say where it is not installed.

    Raises:
        UserError: it is not.
    """
    try:
        import transformers
        from huggingface_hub.utils import logging
    except ImportError as error:
        raise UserError(missing) from error
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # without a network it warns of six tries, one by one
    return transformers
