"""The server's routes: images in, results out; prompts about images that a model has looked at.

``create_app`` makes an ASGI application; ``eachmask serve`` runs it under uvicorn, in one process or several.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, Field

from eachmask import __version__
from eachmask.inference.embedding_cache import EmbeddingCache
from eachmask.inference.load import load
from eachmask.inference.predictor import Predictor
from eachmask.inference.prompt_predictor import Embedded, PromptPredictor
from eachmask.server.answers import answer, check_format, formats, read_body
from eachmask.server.batcher import Batcher, BusyError, LateError
from eachmask.server.guard import Guard, Refusal
from eachmask.server.manual import manual
from eachmask.server.monitor import Monitor
from eachmask.server.settings import ServerSettings
from eachmask.server.works import Answer, Look, Predict
from eachmask.structures import DecodeOptions, Prompts, UserError

ENVIRONMENT = "EACHMASK_SERVER"
"""Where the worker processes of a server find its settings."""
SESSION_BYTES = 2 << 30
"""Of what models saw of images, on disk; what was not used for longest goes."""

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

    def prompts(self, size: tuple[int, int]) -> Prompts:
        """For an image of (height, width).

        Raises:
            UserError: nothing is meant, or what is meant does not lie in the image.
        """
        given = self.model_dump(exclude={"alternatives"}, exclude_none=True)
        if self.points and self.boxes and self.box_objects is None:
            given["box_objects"] = list(range(1, len(self.boxes) + 1))
        return Prompts(size, **given)


class Models:
    """The models that are served, by the names that they were asked for."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.loaded: dict[str, Predictor[Any]] = {}

    def load(self, name: str) -> None:
        """Take a model in, or anew: requests that have begun end with the one before."""
        predictor = load(name, device=self.settings.device, precision=self.settings.precision)
        if isinstance(predictor, PromptPredictor):
            folder = Path(self.settings.embeddings) if self.settings.embeddings else None
            predictor.cache = EmbeddingCache(folder, SESSION_BYTES)
        self.loaded[name] = predictor

    def load_all(self) -> None:
        """All of them."""
        for name in self.settings.models:
            self.load(name)

    def get(self, name: str | None) -> Predictor[Any]:
        """The model of this name, or the first one.

        Raises:
            Refusal: there is none (404), or they are being loaded (503).
        """
        name = name or self.settings.models[0]
        if name not in self.settings.models:
            raise Refusal(404, f"no model {name!r} is served: {', '.join(self.settings.models)}")
        if name not in self.loaded:
            raise Refusal(503, f"{name} is being loaded", {"Retry-After": "5"})
        return self.loaded[name]

    def prompted(self, name: str | None) -> PromptPredictor:
        """The same of a model that takes prompts; without a name the first that does.

        Raises:
            Refusal: there is none.
        """
        if name is None:
            name = next((n for n, model in self.loaded.items() if isinstance(model, PromptPredictor)), None)
        predictor = self.get(name)
        if not isinstance(predictor, PromptPredictor):
            raise Refusal(422, f"{name or self.settings.models[0]} takes no prompts: serve a model such as clicks too")
        return predictor


def create_app(settings: ServerSettings, models: Models | None = None) -> FastAPI:
    """The application.

    Args:
        models: loaded already; else they are once it starts.

    Raises:
        UserError: at the start, where a model cannot be loaded.
    """
    models = models or Models(settings)
    monitor = Monitor(lambda: batcher.waiting)
    batcher = Batcher(settings.limits, monitor.batch)

    @contextlib.asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        if not models.loaded:
            await asyncio.to_thread(models.load_all)
        yield
        await batcher.stop()

    app = FastAPI(title="eachmask", version=__version__, docs_url=None, redoc_url=None, lifespan=life)
    _answer_errors(app)
    _add_operation(app, models, monitor)
    _add_prediction(app, models, batcher, settings)
    _add_sessions(app, models, batcher, settings)
    app.add_middleware(Guard, settings=settings, on_request=monitor.request)
    return app


def from_environment() -> FastAPI:
    """The application of a worker process."""
    return create_app(ServerSettings.from_json(os.environ[ENVIRONMENT]))


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

    @app.exception_handler(LateError)
    async def late(_: Request, error: LateError) -> JSONResponse:
        return said(504, str(error))


def _add_operation(app: FastAPI, models: Models, monitor: Monitor) -> None:
    """Is it alive, what does it serve, how is it doing."""

    @app.get("/health", tags=["operation"])
    async def health() -> dict[str, str]:
        """The process answers."""
        return {"status": "alive", "version": __version__}

    @app.get("/ready", tags=["operation"])
    async def ready() -> dict[str, str]:
        """All models are loaded; 503 before."""
        for name in models.settings.models:
            models.get(name)
        return {"status": "ready"}

    @app.get("/models", tags=["operation"])
    async def served() -> list[dict[str, Any]]:
        """The models, what they find, and the formats of their results."""
        return [_described(name, models.get(name)) for name in models.settings.models]

    @app.post("/models/reload", tags=["operation"])
    async def reload(model: _Model = None) -> dict[str, str]:
        """Read a model's file anew; until that is done the one before answers. Each worker reloads its own."""
        name = model or models.settings.models[0]
        models.get(name)
        await asyncio.to_thread(models.load, name)
        return {"reloaded": name}

    @app.get("/metrics", tags=["operation"], response_class=Response)
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(monitor.text(), media_type="text/plain; version=0.0.4")

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(manual(app.openapi()))


def _described(name: str, predictor: Predictor[Any]) -> dict[str, Any]:
    info = predictor.info
    return {
        "name": name,
        "task": predictor.task.name,
        "prompts": isinstance(predictor, PromptPredictor),
        "categories": [category.name for category in predictor.categories],
        "formats": formats(predictor.task),
        "license": info.license,
    }


def _add_prediction(app: FastAPI, models: Models, batcher: Batcher, settings: ServerSettings) -> None:
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
        predictor = models.get(model)
        check_format(predictor.task, kind)  # before anything is computed
        options = DecodeOptions(score_threshold=score, max_detections=max_detections)
        image = await asyncio.to_thread(read_body, await request.body(), settings.limits.max_pixels)
        array = predictor.prepare(image)
        work = Predict(predictor, predictor.decode_options(options), tuple(classes or ()))
        found = await batcher.ask(work, array)
        content, media_type = await asyncio.to_thread(answer, predictor, array, found, kind)
        return Response(content, media_type=media_type)


def _add_sessions(app: FastAPI, models: Models, batcher: Batcher, settings: ServerSettings) -> None:
    @app.post("/sessions", tags=["prompts"])
    async def look(request: Request, model: _Model = None) -> dict[str, Any]:
        """Look at an image once (the body), to ask about it as often as one likes."""
        predictor = models.prompted(model)
        image = await asyncio.to_thread(read_body, await request.body(), settings.limits.max_pixels)
        embedded: Embedded = await batcher.ask(Look(predictor), image)
        height, width = embedded.image_size
        return {"session": embedded.key, "width": width, "height": height}

    @app.post("/sessions/{session}/predict", tags=["prompts"], response_class=Response)
    async def ask(session: str, question: Question, model: _Model = None, score: _Score = None) -> Response:
        """The objects that points and boxes mean, as COCO; 404 where the image was forgotten: send it again."""
        predictor = models.prompted(model)
        known = await asyncio.to_thread(_recalled, predictor, session)
        prompts = question.prompts(known.image_size)
        options = DecodeOptions(score_threshold=score, alternatives=question.alternatives)
        found = await batcher.ask(Answer(predictor, options), (known, prompts))
        content, media_type = await asyncio.to_thread(answer, predictor, _blank(known), found, "json")
        return Response(content, media_type=media_type)


def _recalled(predictor: PromptPredictor, session: str) -> Embedded:
    """What the model saw in a session.

    Raises:
        Refusal: it is not there any more.
    """
    known = None
    if predictor.cache is not None and len(session) == 64 and session.isalnum():
        known = predictor.cache.get(session)
    if known is None:
        raise Refusal(404, "there is no such session, or its image was forgotten: send the image again")
    return known


def _blank(embedded: Embedded) -> Any:
    """An image of that size: what is written of prompted objects measures no gray values."""
    import numpy as np

    return np.zeros((*embedded.image_size, 3), np.uint8)
