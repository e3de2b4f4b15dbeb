"""The studio's routes; each is a few words around the project, so that everything can be done without them."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles

from eachmask.inference.failures import why
from eachmask.server.settings import Limits, ServerSettings
from eachmask.structures import UserError
from eachmask.studio.clicks import Clicks
from eachmask.studio.events import Events
from eachmask.studio.guard import COOKIE, StudioGuard
from eachmask.studio.images import Images
from eachmask.studio.jobs import Job, Jobs
from eachmask.studio.measure import Measures
from eachmask.studio.orders import Orders
from eachmask.studio.project import Project, StaleError
from eachmask.studio.routes import add_images, add_project, add_work
from eachmask.studio.save import ChangedOnDiskError

PAGE = Path(__file__).parent / "page"
NOTICE = "<!doctype html><title>eachmask studio</title><p>The page is not built: run npm ci and npm run build in web/."
"""In the page's place, where nobody has built it."""


class Studio:
    """All that the routes work with.

    Args:
        key: whoever shows it may do everything; the browser gets it as a cookie.
        on_link: told the next link's token whenever one was used.
        pixel_size: micrometers, where an image's file does not say it.
    """

    def __init__(
        self, project: Project, *, model: str | None = None, clicks: Clicks | None = None, key: str = "",
        token: str = "", on_link: Callable[[str], None] = lambda token: None, pixel_size: float | None = None,
    ) -> None:  # fmt: skip
        self.project, self.model = project, model
        self.key, self.token = key or secrets.token_urlsafe(24), token or secrets.token_urlsafe(24)
        self.on_link = on_link
        self.clicks, self.images, self.events = clicks or Clicks(), Images(), Events()
        jobs = project.hidden / "jobs"
        self.jobs = Jobs(Orders(project, jobs), jobs, self._job_changed)
        self.measures = Measures(project, pixel_size)
        self.problems: dict[int, str] = {}
        """Images that could not be read, and why."""
        self._entering = threading.Lock()
        project.on_change = lambda index, revision: self.events.publish("image", {"index": index, "revision": revision})

    def _job_changed(self, job: Job) -> None:
        self.events.publish("job", job.out().model_dump())

    def enter(self, token: str) -> bool:
        """Whether this is the link that was given out; it opens once."""
        with self._entering:
            fits = secrets.compare_digest(token.encode(), self.token.encode())
            if fits:
                self.token = secrets.token_urlsafe(24)
        if fits:
            self.on_link(self.token)
        return fits


def create_app(studio: Studio, max_bytes: int = 20_000_000) -> FastAPI:
    """The application.

    Args:
        max_bytes: of one request.
    """

    @contextlib.asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        studio.jobs.close()

    app = FastAPI(title="eachmask studio", docs_url=None, redoc_url=None, openapi_url=None, lifespan=life)
    _answer_errors(app)
    add_project(app, studio)
    add_images(app, studio)
    add_work(app, studio)
    _add_page(app, studio)
    settings = ServerSettings((), (studio.key,), limits=Limits(max_bytes=max_bytes))
    app.add_middleware(StudioGuard, settings=settings)
    return app


def _answer_errors(app: FastAPI) -> None:
    """Errors as sentences: ``{"detail": ...}``."""

    @app.exception_handler(UserError)
    async def user_error(_: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    @app.exception_handler(StaleError)
    async def stale(_: Request, error: StaleError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 409)

    @app.exception_handler(ChangedOnDiskError)
    async def changed(_: Request, error: ChangedOnDiskError) -> JSONResponse:
        return JSONResponse({"detail": str(error), "changed_on_disk": error.paths}, 409)

    @app.exception_handler(OSError)
    async def disk(_: Request, error: OSError) -> JSONResponse:
        return JSONResponse({"detail": why(error, "written", "the folder")}, 507)


def _add_page(app: FastAPI, studio: Studio) -> None:
    @app.get("/")
    def page(request: Request, token: str = "") -> Response:
        """The page; a link's first visit takes the token and leaves the cookie."""
        if token:
            if not studio.enter(token):
                if request.cookies.get(COOKIE) == studio.key:
                    return RedirectResponse("/", 303)
                return HTMLResponse("<p>This link was used already: take the newest that eachmask studio printed.", 401)
            answer = RedirectResponse("/", 303)
            answer.set_cookie(COOKIE, studio.key, httponly=True, samesite="strict", path="/")
            return answer
        built = PAGE / "index.html"
        return HTMLResponse(built.read_text(encoding="utf-8") if built.is_file() else NOTICE)

    if PAGE.is_dir():
        app.mount("/", StaticFiles(directory=PAGE), name="page")
