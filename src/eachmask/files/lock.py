"""A folder that one process at a time writes to."""

from __future__ import annotations

from pathlib import Path
from typing import IO

from eachmask.structures import UserError


def lock(path: Path, folder: Path, remedy: str = "wait for it, or choose another --out") -> IO[bytes]:
    """An open file that only one process can have; the system frees it however the process ends.

    Args:
        path: the lock file; made if missing.
        folder: what it stands for, for the message.
        remedy: what the user can do where another process has it.

    Raises:
        UserError: another process has it.
    """
    handle = open(path, "wb")  # noqa: SIM115 - held until it is closed
    try:
        import fcntl
    except ImportError:  # Windows: two runs into one folder are the user's business
        return handle
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        raise UserError(f"another process is writing to {folder}: {remedy}") from None
    except OSError:  # a file system without locks
        pass
    return handle
