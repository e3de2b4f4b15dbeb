"""One file from a server to this disk: resumed after a broken connection, checked, and then under its final name."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from eachmask.files.atomic import put_in_place
from eachmask.structures import UserError

CHUNK_SIZE = 1 << 20
TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""
MAX_ATTEMPTS = 5
"""Connections in a row that may fail without a new byte."""

Progress = Callable[[int, int | None], None]
"""Called with (bytes so far, bytes in all or None where the server does not say)."""


class Broken(OSError):
    """The connection ended early; what has arrived is kept."""


def download(url: str, target: Path, sha256: str, progress: Progress | None = None) -> str:
    """Get ``url`` into ``target``, resuming an earlier unfinished attempt.

    Args:
        sha256: hexadecimal digest of the file, or its leading digits where no more is published.
        progress: by default a bar on standard error, if that is a terminal.

    Returns:
        the file's whole SHA-256.

    Raises:
        UserError: the server refuses, or sends other bytes than the published ones.
        Broken: the connection failed too often; the part that has arrived stays for the next time.
        OSError: the file cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    resumed = part.exists()
    with contextlib.nullcontext(progress) if progress else _bar(target.name) as report:
        _receive(url, part, report)
        digest = sha256_of(part)
        if resumed and not digest.startswith(sha256):  # what was there may be of another file
            part.unlink()
            _receive(url, part, report)
            digest = sha256_of(part)
    if not digest.startswith(sha256):
        part.unlink()
        raise UserError(
            f"{url} does not have the published checksum (SHA-256 {sha256}..., got {digest[:16]}...), so it was "
            "deleted: try again; if it stays so, the file was changed at its source or on its way"
        )
    put_in_place(part, target)
    return digest


def _receive(url: str, part: Path, progress: Progress) -> None:
    """Fill ``part`` to its end over as many connections as it takes."""
    failures = 0
    while True:
        before = _size(part)
        try:
            _one_connection(url, part, progress)
            return
        except (OSError, http.client.HTTPException) as error:
            reason = _give_up(error, url)
            failures = 0 if _size(part) > before else failures + 1
            # Nothing at all, not even a refusal: most likely there is no network, so say so at once.
            offline = not _size(part) and not isinstance(error, urllib.error.HTTPError)
            if offline or failures >= MAX_ATTEMPTS:
                raise Broken(reason) from error
            time.sleep(min(0.1 * 2**failures, 5.0))


def _one_connection(url: str, part: Path, progress: Progress) -> None:
    """Ask for what is missing and append it; raises where the connection ends early."""
    have = _size(part)
    request = urllib.request.Request(url, headers={"User-Agent": "eachmask"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        reply = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: the part is as long as the file, or longer
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return
        part.unlink()
        return _one_connection(url, part, progress)
    with reply:
        if have and reply.status != 206:  # the server does not know ranges: from the start
            have = 0
        length = reply.headers.get("Content-Length")
        total = have + int(length) if length else None
        with open(part, "ab" if have else "wb") as file:
            while chunk := reply.read(CHUNK_SIZE):
                file.write(chunk)
                have += len(chunk)
                progress(have, total)
            file.flush()
            os.fsync(file.fileno())
    if total is not None and have < total:
        raise Broken(f"the connection ended after {have} of {total} bytes")


def _give_up(error: Exception, url: str) -> str:
    """The reason in words; errors that another attempt cannot help are raised from here.

    Raises:
        UserError: the server's answer is no.
        OSError: the trouble is with this machine's disk, not with the network.
    """
    if isinstance(error, urllib.error.HTTPError):
        if error.code < 500 and error.code not in (408, 429):
            raise UserError(f"the server refuses {url} ({error.code} {error.reason})") from error
        return f"the server answered {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return str(getattr(error.reason, "strerror", None) or error.reason)
    if isinstance(error, Broken | ConnectionError | TimeoutError | http.client.HTTPException):
        return str(error) or type(error).__name__
    raise error


@contextlib.contextmanager
def _bar(name: str) -> Iterator[Progress]:
    """A progress bar with speed and time left on standard error."""
    from eachmask.files.progress import bars

    with bars(transfer=True) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def sha256_of(path: Path) -> str:
    """Hexadecimal digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
