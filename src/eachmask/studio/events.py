"""Server-sent events: what happens is told to every open page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

MAX_WAITING = 1000
ALIVE = 15.0
"""Seconds between signs of life."""


class Events:
    """Tells all pages; may be called from any thread."""

    def __init__(self) -> None:
        self._pages: set[asyncio.Queue[str]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def publish(self, name: str, data: dict[str, Any]) -> None:
        """One event."""
        text = f"event: {name}\ndata: {json.dumps(data)}\n\n"
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tell, text)

    def _tell(self, text: str) -> None:
        for page in self._pages:
            if page.qsize() < MAX_WAITING:
                page.put_nowait(text)

    async def stream(self) -> AsyncIterator[str]:
        """What one page receives."""
        self._loop = asyncio.get_running_loop()
        page: asyncio.Queue[str] = asyncio.Queue()
        self._pages.add(page)
        try:
            yield ": hello\n\n"
            while True:
                try:
                    yield await asyncio.wait_for(page.get(), ALIVE)
                except TimeoutError:
                    yield ": alive\n\n"
        finally:
            self._pages.discard(page)
