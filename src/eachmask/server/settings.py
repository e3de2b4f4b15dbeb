"""What a server serves, to whom, and how much of it."""

from __future__ import annotations

import ipaddress
import json
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path

from eachmask.structures import UserError

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Names of this machine that no other machine can use."""
MIN_KEY_LENGTH = 16
"""Characters; shorter keys can be guessed."""


@dataclass(frozen=True)
class Limits:
    """Bounds on what clients may ask for; what lies beyond is answered with an error, not with a longer wait."""

    max_bytes: int = 20_000_000
    """Of one request (413)."""
    max_pixels: int = 50_000_000
    """Of one image (413), before it is decoded."""
    queue: int = 64
    """Requests that wait for the model at most (503 with Retry-After)."""
    seconds: float = 60.0
    """From a whole request to its answer at most (504)."""
    receive_seconds: float = 20.0
    """For a request to arrive (408)."""
    batch: int = 4
    """Images that go through the network together at most: of more, CPUs gain nothing, and each needs its memory."""


@dataclass(frozen=True)
class ServerSettings:
    """One server."""

    models: tuple[str, ...]
    """Names, files or run folders, as ``eachmask.load`` takes them; the first one answers where none is named."""
    keys: tuple[str, ...] = field(repr=False)
    """Each client shows one of these."""
    device: str = "auto"
    precision: str = "auto"
    hosts: tuple[str, ...] = LOOPBACK
    """Names under which clients may address the server; empty: any. Keeps web pages of others from reaching it
    through a name of theirs that points here (DNS rebinding)."""
    embeddings: str = ""
    """Folder of what models saw of images in sessions; all workers share it."""
    limits: Limits = Limits()

    def to_json(self) -> str:
        """For a process that is started to work for this server."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ServerSettings:
        """The other way round."""
        values = json.loads(text)
        lists = {name: tuple(values[name]) for name in ("models", "keys", "hosts")}
        return cls(**(values | lists | {"limits": Limits(**values["limits"])}))


def new_key() -> str:
    """A key that nobody can guess."""
    return secrets.token_urlsafe(24)


def read_keys(path: Path) -> tuple[str, ...]:
    """The keys of a file, one per line; empty lines and those that begin with # are none.

    Raises:
        UserError: the file cannot be read, or holds no key, or one that can be guessed.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({getattr(error, 'strerror', None) or 'it is no text'})") from None
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise UserError(f"{path} holds no key: write one per line")
    if short := [number for number, line in enumerate(lines, start=1) if line in keys and len(line) < MIN_KEY_LENGTH]:
        raise UserError(f"{path}: the key in line {short[0]} has fewer than {MIN_KEY_LENGTH} characters")
    return keys


def is_loopback(host: str) -> bool:
    """Whether no other machine can reach what is bound to this address."""
    if host in LOOPBACK:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
