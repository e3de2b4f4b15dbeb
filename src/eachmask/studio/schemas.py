"""What the page and the server say to each other; all coordinates are pixels of the image, x before y."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Ring = list[float]
"""x0, y0, x1, y1, ...; not closed."""
MAX_RINGS, MAX_NUMBERS = 10_000, 1_000_000


class Strict(BaseModel):
    """What comes from the page: unknown fields are mistakes, numbers are finite."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class CategoryOut(BaseModel):
    """One class."""

    id: int
    name: str
    parent: str
    color: str = Field(description="#rrggbb")


class ModelOut(BaseModel):
    """A model at hand."""

    name: str


class ProjectOut(BaseModel):
    """The folder that is worked on."""

    name: str
    count: int
    format: str
    labels_path: str
    read_only: bool = Field(description="saving needs --labels in a folder that can be written to")
    unsaved: int = Field(description="images changed since they were last saved")
    categories: list[CategoryOut]
    models: list[ModelOut]
    model: str | None


class NewCategory(Strict):
    """A class to be added."""

    name: str = Field(min_length=1, max_length=200)
    parent: str = Field(default="", max_length=200)


class ObjectOut(BaseModel):
    """One object; its rings are filled by the even-odd rule."""

    id: int
    category: int
    crowd: bool
    score: float | None
    source: Literal["person", "model", "file"]
    rings: list[Ring]
    box: list[float]
    area: int
    track: int = Field(description="its number in the stack or video; 0: it is on this image alone")
    comment: str
    attributes: dict[str, Any]


class ImageRow(BaseModel):
    """One image in a list; sizes are unknown until it was read."""

    index: int
    name: str
    width: int | None
    height: int | None
    objects: int
    proposals: int
    reviewed: bool
    doubt: float | None
    problem: str | None


class ImageRows(BaseModel):
    """A part of the list."""

    total: int
    images: list[ImageRow]


class ChannelOut(BaseModel):
    """A channel that can be chosen."""

    color: str = Field(description="#rrggbb")
    span: tuple[float, float]
    window: tuple[float, float]


class ImageOut(BaseModel):
    """One image with its objects."""

    index: int
    name: str
    width: int
    height: int
    first: int = Field(description="of the stack, video or row of files that it is in")
    counts: list[int] = Field(description="objects of each page or frame of that; of a single image none")
    channels: list[ChannelOut] = Field(description="that can be chosen; none where the image is gray or in colors")
    bits: int
    levels: int
    span: tuple[float, float] = Field(description="the smallest and the largest value")
    window: tuple[float, float] = Field(description="the values that are black and white unless a tile is told others")
    revision: int
    can_undo: bool
    can_redo: bool
    comment: str
    reviewed: bool
    objects: list[ObjectOut]
    proposals: list[ObjectOut]


class Action(Strict):
    """What a person did; which fields count depends on ``kind``."""

    kind: Literal[
        "add", "change", "reshape", "paint", "remove", "merge", "split", "fill_holes", "accept", "accept_above",
        "reject", "copy_from", "review", "comment",
    ]  # fmt: skip
    id: int | None = None
    ids: list[int] = Field(default=[], max_length=100_000)
    category: int | None = None
    crowd: bool | None = None
    comment: str | None = Field(default=None, max_length=10_000)
    attributes: dict[str, Any] | None = None
    track: int | None = Field(default=None, ge=0, le=1_000_000)
    rings: list[Ring] | None = Field(default=None, max_length=MAX_RINGS)
    stroke: list[float] = Field(default=[], max_length=MAX_NUMBERS)
    radius: float = Field(default=1, gt=0, le=5000)
    erase: bool = False
    line: list[float] = Field(default=[], max_length=MAX_NUMBERS)
    score: float = Field(default=0, ge=0, le=1)
    image: int | None = None
    reviewed: bool = True


class ActionIn(Strict):
    """An action on the state that the page saw."""

    revision: int
    action: Action


class RevisionIn(Strict):
    """To undo or to redo."""

    revision: int


class Changed(BaseModel):
    """What an action changed; ``proposals`` are all that are left, where they changed."""

    revision: int
    can_undo: bool
    can_redo: bool
    objects: list[ObjectOut]
    removed: list[int]
    proposals: list[ObjectOut] | None


class Click(Strict):
    """What is meant."""

    points: list[tuple[float, float]] = Field(default=[], max_length=1000)
    signs: list[bool] = Field(default=[], max_length=1000)
    box: tuple[float, float, float, float] | None = None
    scribbles: list[Ring] = Field(default=[], max_length=1000)
    id: int | None = Field(default=None, description="the object that is corrected")
    alternatives: bool = Field(default=False, description="all answers to a lone click, and not the best alone")
    hover: bool = Field(default=False, description="the pointer only rests there: 409 once something else is asked")


class AnswerOut(BaseModel):
    """A mask that is offered."""

    rings: list[Ring]
    score: float


class ClickOut(AnswerOut):
    """The best one, the others, and how long it took."""

    alternatives: list[AnswerOut]
    ms: float


class SaveIn(Strict):
    """To write the chosen format."""

    format: str | None = None
    overwrite: bool = False


class SaveOut(BaseModel):
    """What was written."""

    path: str
    written: int


class JobIn(Strict):
    """Work for a child process."""

    kind: Literal["predict", "train", "measure", "follow"]
    model: str | None = None
    threshold: float | None = Field(default=None, ge=0, le=1)
    indices: list[int] | None = Field(default=None, max_length=1_000_000)
    variant: str | None = None
    epochs: int = Field(default=20, ge=1, le=10_000)
    categories: list[int] | None = None
    objects: list[int] | None = Field(default=None, max_length=10_000, description="that are followed; all")
    back: bool = Field(default=False, description="follow to the start of the stack or video")


JobState = Literal["running", "done", "failed", "stopped"]


class JobOut(BaseModel):
    """How it is doing."""

    id: str
    kind: str
    state: JobState
    progress: float
    message: str
    eta_s: float | None
    curve: list[tuple[float, float]]
    samples: list[str] = Field(description="drawings of what a model in training finds: GET jobs/ID/samples/NAME")
    result: dict[str, Any] | None


class JobKept(Strict):
    """What the disk remembers of a job."""

    order: JobIn
    total: int = Field(ge=0)
    ordered: float
    state: JobState
    message: str
    progress: float
    result: dict[str, Any] | None


class CheckOut(BaseModel):
    """What may be wrong on an image: ids of objects and of proposals."""

    doubled: list[int]
    missed: list[int]


class MeasureRow(BaseModel):
    """Annotations against what a model proposed, of one image."""

    image: int
    name: str
    matched: int
    missed: int
    invented: int
    poor: int


class MeasureOut(BaseModel):
    """All of it; lengths and areas in ``unit``."""

    rows: list[MeasureRow]
    by_category: list[dict[str, Any]]
    by_size: list[dict[str, Any]]
    objects: list[dict[str, Any]]
    unit: str
