"""The routes under /api: the project, its images, and what is done with all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from fastapi import FastAPI, Query, Response
from fastapi.responses import FileResponse, StreamingResponse

from eachmask.structures import UserError
from eachmask.studio.export import exported
from eachmask.studio.history import Delta
from eachmask.studio.items import shades_of
from eachmask.studio.measure import checked
from eachmask.studio.objects import shown
from eachmask.studio.rows import image_out, image_rows, project_out
from eachmask.studio.save import save
from eachmask.studio.schemas import (
    ActionIn,
    Changed,
    CheckOut,
    Click,
    ClickOut,
    ImageOut,
    ImageRows,
    JobIn,
    JobOut,
    MeasureOut,
    NewCategory,
    ProjectOut,
    RevisionIn,
    SaveIn,
    SaveOut,
)  # fmt: skip

if TYPE_CHECKING:
    from eachmask.studio.app import Studio


def add_project(app: FastAPI, studio: Studio) -> None:
    """The folder as a whole."""
    project = studio.project

    @app.get("/api/project")
    def about() -> ProjectOut:
        return project_out(studio)

    @app.post("/api/categories")
    def add_category(new: NewCategory) -> ProjectOut:
        project.add_category(new.name, new.parent)
        return project_out(studio)

    @app.get("/api/images")
    def images(
        start: int = Query(0, ge=0),
        count: int = Query(200, ge=1, le=1000),
        order: Literal["name", "doubt", "objects"] = "name",
    ) -> ImageRows:
        return image_rows(studio, start, count, order)

    @app.post("/api/save")
    def write(wish: SaveIn) -> SaveOut:
        path, written = save(project, wish.format, wish.overwrite)
        studio.events.publish("saved", {"path": str(path), "written": written})
        return SaveOut(path=str(path), written=written)


def add_images(app: FastAPI, studio: Studio) -> None:
    """One image: seen, drawn on, clicked on."""
    project = studio.project

    @app.get("/api/images/{index}/thumbnail")
    def thumbnail(index: int) -> Response:
        return Response(studio.images.thumbnail(project.item(index)), media_type="image/jpeg")

    @app.get("/api/images/{index}/tile/{level}/{x}/{y}")
    def tile(
        index: int, level: int, x: int, y: int, low: float | None = None, high: float | None = None,
        channel: int | None = None, shades: str | None = Query(None, max_length=5000),
    ) -> Response:  # fmt: skip
        pyramid, chosen = studio.images.pyramid(project.item(index)), None if shades is None else shades_of(shades)
        return Response(pyramid.tile(level, x, y, low, high, channel, chosen), media_type="image/jpeg")

    @app.get("/api/images/{index}")
    def image(index: int) -> ImageOut:
        return image_out(studio, index)

    @app.get("/api/images/{index}/check")
    def check(index: int) -> CheckOut:
        return checked(project, index)

    @app.post("/api/images/{index}/actions")
    def act(index: int, said: ActionIn) -> Changed:
        return _changed(studio, index, project.act(index, said.revision, said.action))

    @app.post("/api/images/{index}/undo")
    def undo(index: int, said: RevisionIn) -> Changed:
        return _changed(studio, index, project.step(index, said.revision, "undo"))

    @app.post("/api/images/{index}/redo")
    def redo(index: int, said: RevisionIn) -> Changed:
        return _changed(studio, index, project.step(index, said.revision, "redo"))

    @app.post("/api/images/{index}/look")
    def look(index: int) -> dict[str, bool]:
        studio.clicks.look(project.item(index))
        return {"ready": True}

    @app.post("/api/images/{index}/click", response_model=ClickOut)
    def click(index: int, said: Click) -> Response:
        """Written here, at once: FastAPI would check the answer again, in another turn of its threads."""
        rough = None if said.id is None else project.mask(index, said.id)
        answer = studio.clicks.answer(project.item(index), said, rough)
        return Response(answer.model_dump_json(), media_type="application/json")


def add_work(app: FastAPI, studio: Studio) -> None:
    """Jobs, measures, exports, events."""

    @app.get("/api/jobs")
    def jobs() -> list[JobOut]:
        return [job.out() for job in reversed(studio.jobs.jobs.values())]

    @app.post("/api/jobs")
    def start(order: JobIn) -> JobOut:
        return studio.jobs.start(order).out()

    @app.post("/api/jobs/{key}/stop")
    def stop(key: str) -> JobOut:
        return studio.jobs.stop(key).out()

    @app.post("/api/jobs/{key}/resume")
    def resume(key: str) -> JobOut:
        return studio.jobs.resume(key).out()

    @app.get("/api/jobs/{key}/samples/{step}/{name}")
    def sample(key: str, step: str, name: str) -> FileResponse:
        for path in studio.jobs.get(key).samples():
            if (path.parent.name, path.name) == (step, name):
                return FileResponse(path)
        raise UserError("there are newer drawings: load the jobs again")

    @app.get("/api/measure")
    def measure() -> MeasureOut:
        return studio.measures.out()

    @app.get("/api/export")
    def export(format: str = "coco") -> Response:
        name, content = exported(studio.measures, format)
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return Response(content, media_type="application/octet-stream", headers=headers)

    @app.get("/api/events")
    async def events() -> StreamingResponse:
        return StreamingResponse(studio.events.stream(), media_type="text/event-stream")


def _changed(studio: Studio, index: int, delta: Delta) -> Changed:
    history, size = studio.project.history(index), studio.project.size(index)
    touched = [int(key) for key in delta.get("objects", {})]
    present = [history.objects[key] for key in touched if key in history.objects]
    return Changed(
        revision=history.revision, can_undo=bool(history.done), can_redo=bool(history.undone),
        objects=shown(present, size), removed=[key for key in touched if key not in history.objects],
        proposals=shown(list(history.proposals.values()), size) if "proposals" in delta else None,
    )  # fmt: skip
