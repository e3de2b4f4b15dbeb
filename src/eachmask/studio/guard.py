"""Who may speak to the studio: the browser that opened its one-time link, from the studio's own page."""

from __future__ import annotations

import hmac
from http.cookies import CookieError, SimpleCookie
from typing import ClassVar
from urllib.parse import urlsplit

from eachmask.server.guard import Guard, Message, Refusal

COOKIE = "eachmask_studio"
POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_SAFE = ("GET", "HEAD")


class StudioGuard(Guard):
    """The guard of ``eachmask serve``, with a cookie beside the keys.

    The first visit, ``/?token=T``, is let through to the route that takes the token. All else shows the cookie or
    ``Authorization: Bearer KEY``; what changes something also comes from the studio's own page, as JSON.
    """

    headers: ClassVar[dict[str, str]] = {
        "content-security-policy": POLICY,
        "referrer-policy": "no-referrer",
        "x-frame-options": "DENY",
    }
    word: ClassVar[str] = "detail"

    def _check(self, scope: Message, headers: dict[str, str]) -> None:
        super()._check(scope, headers)
        if scope["method"] in _SAFE:
            return
        if urlsplit(headers.get("origin", "")).netloc != headers.get("host", ""):
            raise Refusal(403, "changes are taken from the studio's own page alone")
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refusal(415, "send application/json")

    def _is_open(self, scope: Message) -> bool:
        return scope["path"] == "/" and bool(scope["query_string"].startswith(b"token="))

    def _knows(self, headers: dict[str, str]) -> bool:
        if super()._knows(headers):
            return True
        try:
            shown = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        value = "" if shown is None else shown.value
        return any([hmac.compare_digest(value.encode(), key.encode()) for key in self.settings.keys])
