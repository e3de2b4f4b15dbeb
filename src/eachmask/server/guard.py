"""Guard: what every request passes before anything looks into it.

Who asks (a key, compared in constant time), under which name (the Host and Origin headers), how much (bytes, time to
arrive), and a number under which the log knows the request.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, ClassVar
from urllib.parse import urlsplit

from eachmask.server.settings import ServerSettings

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

LOG = logging.getLogger("eachmask.server")
OPEN = ("/health", "/ready")
"""Paths that need no key: they tell nothing but that the server lives."""
DRAINED = 4
"""So many times the largest request is received to say that it is too large."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Refusal(Exception):
    """An answer instead of the requested one."""

    def __init__(self, status: int, sentence: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status, self.headers = status, headers or {}

    def __reduce__(self) -> tuple[type[Refusal], tuple[Any, ...]]:
        return type(self), (self.status, str(self), self.headers)


class Guard:
    """ASGI middleware around the server's routes.

    Args:
        app: what is guarded.
        on_request: told method, route, status and seconds of each request.
    """

    headers: ClassVar[dict[str, str]] = {}
    """Of every answer, besides those of all guards."""
    word: ClassVar[str] = "error"
    """What the sentence of a refusal is called."""

    def __init__(
        self, app: App, settings: ServerSettings, on_request: Callable[[str, str, int, float], None] = lambda *_: None
    ) -> None:
        self.app, self.settings, self.on_request = app, settings, on_request

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin, status = time.perf_counter(), 500
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        request_id = _request_id(headers.get("x-request-id", ""))
        scope.setdefault("state", {})["request_id"] = request_id

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = {"x-request-id": request_id, "x-content-type-options": "nosniff", "cache-control": "no-store"}
                own |= self.headers
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in own.items())]
            await send(message)

        try:
            self._check(scope, headers)
            body = await self._body(headers, receive)
            await self.app(scope, _replayed(body, receive), answer)
        except Refusal as refusal:
            await _refuse(answer, refusal, self.word)
        finally:
            seconds = time.perf_counter() - begin
            route = getattr(scope.get("route"), "path", "other")
            self.on_request(scope["method"], route, status, seconds)
            LOG.info("%s", json.dumps({
                "request": request_id, "method": scope["method"], "path": scope["path"], "status": status,
                "ms": round(1000 * seconds, 1), "client": (scope.get("client") or ("",))[0],
            }))  # fmt: skip

    def _check(self, scope: Message, headers: dict[str, str]) -> None:
        """Refuse those who use another name for this server, or have no key."""
        if self.settings.hosts and _host(headers.get("host", "")) not in self.settings.hosts:
            raise Refusal(421, "this server is not known under that name")
        origin = headers.get("origin")
        if origin and urlsplit(origin).netloc != headers.get("host", ""):
            raise Refusal(403, "requests from pages of other servers are not answered")
        if not self._is_open(scope) and not self._knows(headers):
            raise Refusal(401, "show a key: Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"})

    def _is_open(self, scope: Message) -> bool:
        """Whether everybody may ask this."""
        return scope["path"] in OPEN

    def _knows(self, headers: dict[str, str]) -> bool:
        kind, _, shown = headers.get("authorization", "").partition(" ")
        key = shown.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")
        return any([hmac.compare_digest(key.encode(), known.encode()) for known in self.settings.keys])

    async def _body(self, headers: dict[str, str], receive: Receive) -> bytes:
        """The whole request, if it is small enough and comes soon enough.

        What is somewhat too large is still received, and dropped: a client that sends reads no answer.
        """
        limits = self.settings.limits
        too_large = Refusal(413, f"a request may have {limits.max_bytes / 1e6:g} MB at most", {"Connection": "close"})
        stated, received, body = headers.get("content-length", "0"), 0, bytearray()
        if not stated.isdecimal() or int(stated) > DRAINED * limits.max_bytes:
            raise too_large
        try:
            async with asyncio.timeout(limits.receive_seconds):
                more = True
                while more and received <= DRAINED * limits.max_bytes:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise Refusal(499, "the client has gone")
                    part = message.get("body", b"")
                    received, more = received + len(part), message.get("more_body", False)
                    if received <= limits.max_bytes:
                        body += part
        except TimeoutError:
            sentence = f"the request did not arrive within {limits.receive_seconds:g} s"
            raise Refusal(408, sentence, {"Connection": "close"}) from None
        if received > limits.max_bytes:
            raise too_large
        return bytes(body)


def _request_id(given: str) -> str:
    """The client's own, where it is harmless to print."""
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _host(header: str) -> str:
    """Without the port: ``[::1]:8000`` -> ``::1``."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The request once more, for who has not seen it."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _refuse(send: Send, refusal: Refusal, word: str) -> None:
    content = json.dumps({word: str(refusal)}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(content)), **refusal.headers}
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": pairs})
    await send({"type": "http.response.body", "body": content})
