"""The server's routes: images in, results out; prompts about images that a model has looked at.

``create_app`` makes an ASGI application; ``eachmask serve`` runs it under uvicorn, in one process or several.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, Field

from eachmask import __version__
from eachmask.server.batcher import LOAD_SECONDS, Batcher, BusyError, LateError, WorkerLostError
from eachmask.server.guard import Guard, Refusal
from eachmask.server.manual import manual
from eachmask.server.monitor import Monitor
from eachmask.server.settings import ServerSettings
from eachmask.server.workers import ModelProcess, ModelThread
from eachmask.server.works import Ask, Look, Predict
from eachmask.structures import DecodeOptions, UserError

_Score = Annotated[float | None, Query(ge=0, le=1, description="drop objects that score less; else the model's own")]
_Model = Annotated[str | None, Query(description="a served model; else the first one")]
_Format = Annotated[str, Query(description="json, overlay, or what `eachmask predict --save` knows", alias="format")]


class Question(BaseModel):
    """What is meant, in the image's own pixels, x before y. All points and scribbles mean one object, each box one."""

    points: list[tuple[float, float]] = Field(default=[], max_length=1000)
    signs: list[bool] | None = Field(default=None, max_length=1000, description="false: beside the object")
    boxes: list[tuple[float, float, float, float]] = Field(default=[], max_length=1000)
    point_objects: list[int] | None = Field(
        default=None, max_length=1000, description="the object of each point, from 0"
    )
    box_objects: list[int] | None = Field(default=None, max_length=1000)
    alternatives: bool = Field(default=False, description="all answers (whole, part, subpart), not the best alone")

    def prompts(self) -> dict[str, Any]:
        """The arguments of :class:`~eachmask.structures.Prompts`."""
        given = self.model_dump(exclude={"alternatives"}, exclude_none=True)
        if self.points and self.boxes and self.box_objects is None:
            given["box_objects"] = list(range(1, len(self.boxes) + 1))
        return given


class Served:
    """What routes work with: the settings, the queue, and the workers behind it."""

    def __init__(self, settings: ServerSettings, workers: Sequence[ModelThread | ModelProcess]) -> None:
        self.settings, self.workers = settings, workers
        self.monitor = Monitor(lambda: self.batcher.waiting, lambda: self.batcher.up)
        self.batcher = Batcher(settings.limits, self.monitor.batch, workers)

    def check(self, name: str | None) -> None:
        """Whether a model is served; without a name, the first one is.

        Raises:
            Refusal: it is not.
        """
        if name is not None and name not in self.settings.models:
            raise Refusal(404, f"no model {name!r} is served: {', '.join(self.settings.models)}")

    def described(self) -> list[dict[str, Any]]:
        """The models, as the first worker that is up has them.

        Raises:
            Refusal: they are being loaded.
        """
        for worker in self.workers:
            if described := worker.described():
                return described
        raise Refusal(503, "the models are being loaded", {"Retry-After": str(LOAD_SECONDS)})


def create_app(settings: ServerSettings, workers: Sequence[ModelThread | ModelProcess] = ()) -> FastAPI:
    """The application.

    Args:
        workers: what computes, see :func:`eachmask.server.workers.workers_of`; by default a thread. The first one is
            loaded before anything is answered, the others meanwhile.

    Raises:
        UserError: at the start, where a model cannot be loaded.
    """
    served = Served(settings, workers or [ModelThread(settings)])

    @contextlib.asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        await served.workers[0].start()
        served.batcher.start()
        yield
        await served.batcher.stop()

    app = FastAPI(title="eachmask", version=__version__, docs_url=None, redoc_url=None, lifespan=life)
    _answer_errors(app)
    _add_operation(app, served)
    _add_prediction(app, served)
    _add_sessions(app, served)
    app.add_middleware(Guard, settings=settings, on_request=served.monitor.request)
    return app


def _answer_errors(app: FastAPI) -> None:
    """Errors as sentences: ``{"error": ...}``, never a traceback."""

    def said(status: int, sentence: str, headers: dict[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"error": sentence}, status, headers)

    @app.exception_handler(UserError)
    async def user_error(_: Request, error: UserError) -> JSONResponse:
        return said(422, str(error))

    @app.exception_handler(Refusal)
    async def refusal(_: Request, error: Refusal) -> JSONResponse:
        return said(error.status, str(error), error.headers)

    @app.exception_handler(BusyError)
    async def busy(_: Request, error: BusyError) -> JSONResponse:
        return said(503, str(error), {"Retry-After": str(error.retry_after)})

    @app.exception_handler(WorkerLostError)
    async def lost(_: Request, error: WorkerLostError) -> JSONResponse:
        return said(502, str(error), {"Retry-After": "1"})

    @app.exception_handler(LateError)
    async def late(_: Request, error: LateError) -> JSONResponse:
        return said(504, str(error))


def _add_operation(app: FastAPI, served: Served) -> None:
    """Is it alive, what does it serve, how is it doing."""

    @app.get("/health", tags=["operation"])
    async def health() -> dict[str, str]:
        """The process answers."""
        return {"status": "alive", "version": __version__}

    @app.get("/ready", tags=["operation"])
    async def ready() -> dict[str, str]:
        """All models are loaded; 503 before."""
        served.described()
        return {"status": "ready"}

    @app.get("/models", tags=["operation"])
    async def models() -> list[dict[str, Any]]:
        """The models, what they find, and the formats of their results."""
        return served.described()

    @app.post("/models/reload", tags=["operation"])
    async def reload(model: _Model = None) -> dict[str, str]:
        """Read a model's file anew, in one worker after another; until that is done the one before answers."""
        served.check(model)
        served.described()
        name = model or served.settings.models[0]
        for worker in served.workers:
            await worker.renew(name)
        return {"reloaded": name}

    @app.get("/metrics", tags=["operation"], response_class=Response)
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(served.monitor.text(), media_type="text/plain; version=0.0.4")

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(manual(app.openapi()))


def _add_prediction(app: FastAPI, served: Served) -> None:
    @app.post("/predict", tags=["prediction"], response_class=Response)
    async def predict(
        request: Request,
        model: _Model = None,
        score: _Score = None,
        classes: Annotated[list[str] | None, Query(description="keep only these, by name")] = None,
        max_detections: Annotated[int | None, Query(ge=1, le=100_000)] = None,
        kind: _Format = "json",
    ) -> Response:
        """Find what is in one image; the body is the image file, of any format."""
        served.check(model)
        options = DecodeOptions(score_threshold=score, max_detections=max_detections)
        work = Predict(model, options, tuple(classes or ()), kind)
        content, media_type = await served.batcher.ask(work, await request.body())
        return Response(content, media_type=media_type)


def _add_sessions(app: FastAPI, served: Served) -> None:
    @app.post("/sessions", tags=["prompts"])
    async def look(request: Request, model: _Model = None) -> dict[str, Any]:
        """Look at an image once (the body), to ask about it as often as one likes."""
        served.check(model)
        about: dict[str, Any] = await served.batcher.ask(Look(model), await request.body())
        return about

    @app.post("/sessions/{session}/predict", tags=["prompts"], response_class=Response)
    async def ask(session: str, question: Question, model: _Model = None, score: _Score = None) -> Response:
        """The objects that points and boxes mean, as COCO; 404 where the image was forgotten: send it again."""
        served.check(model)
        options = DecodeOptions(score_threshold=score, alternatives=question.alternatives)
        content, media_type = await served.batcher.ask(Ask(model, options), (session, question.prompts()))
        return Response(content, media_type=media_type)
