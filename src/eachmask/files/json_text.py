"""JSON files of strangers, read whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eachmask.files.text import read_text
from eachmask.structures import UserError


def read_json_file(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        UserError: it cannot be read, is no JSON, is nested deeper than Python follows, or has numbers of thousands of
            digits.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON ({error}): if it was cut off, copy or export it again") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deep to be read: export it again") from None
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} has a whole number of thousands of digits: export it again") from None
