"""Task: what training, prediction, writing and measuring have to know of one kind of result.

A model names its task by a class attribute (``task = INSTANCES``). Everything above the models asks this record and
knows nothing else, so that a new task is one new file in this room, and the commands serve it unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from numpy.typing import NDArray

from eachmask.structures import Category

if TYPE_CHECKING:
    from pathlib import Path

    from eachmask.data.classes import Classes
    from eachmask.data.formats.format import Format
    from eachmask.data.samples import Samples
    from eachmask.draw import DrawOptions, RGBImage
    from eachmask.files.sections import Section
    from eachmask.tasks.kept import Kept
    from eachmask.tasks.measures import Measures
    from eachmask.tasks.settings import Settings

T = TypeVar("T")

Box = tuple[int, int, int, int]
"""x1, y1, x2, y2 of a tile, px of the whole image."""


@dataclass(frozen=True)
class Scoring(Generic[T]):
    """How a training run measures the model on whole images."""

    scores: Callable[[Sequence[T], Sequence[T]], dict[str, float]]
    """(predictions, targets) of all val images -> measures, each higher for better predictions."""
    best: str
    """The measure that chooses the weights."""
    quality: Callable[[T, T], float]
    """(what a user is shown, target) of one image -> 0..1; finds the worst images."""
    measure: str
    """What :attr:`quality` is called."""
    calibrate: Callable[[Sequence[T], Sequence[T]], dict[str, Any]] = lambda predictions, targets: {}
    """(predictions, targets) of all val images -> decode settings that suit them best, saved with the weights."""


@dataclass(frozen=True)
class Verdict:
    """How one image went: what puts it among the best or the worst of a report."""

    quality: float
    """0..1"""
    words: str
    """For its caption."""
    content: int = 1
    """How much is annotated; more comes first among equals, and images without anything are not shown."""


@dataclass(frozen=True)
class Predictions(Generic[T]):
    """Predictions of a whole data set, in its classes."""

    found: Sequence[T]
    """One for each image."""
    notes: list[str] = field(default_factory=list)
    """What a reader of the measures should know."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Name -> content of what is written of them beside the report."""


@dataclass(frozen=True)
class Storage(Generic[T]):
    """How the predictions of an evaluation are kept, so that a killed one resumes, and where else they come from."""

    dump: Callable[[T], dict[str, Any]]
    """(packed result) -> the same, JSON-ready."""
    load: Callable[[Sequence[dict[str, Any]], Samples[T], tuple[Category, ...], Classes], Predictions[T]]
    """(what was dumped of each image, the images, the model's categories, those of the images) -> predictions."""
    read: Callable[[Path, Samples[T], Classes], Predictions[T]] | None = None
    """(a results file of any tool, the images, their classes) -> predictions; None: there are no such files."""


@dataclass(frozen=True)
class Record:
    """What a run remembers of one image: small facts in memory, the rest on disk. Both JSON-ready."""

    header: dict[str, Any]
    """``height``, ``width``, ``objects`` (a count), ``mean_score`` or None, ``classes`` (name -> count)."""
    body: dict[str, Any]


@dataclass(frozen=True)
class Written:
    """Files of one image."""

    files: Mapping[str, bytes]
    """What stands behind the image's name -> content: ``.png``; ``/0001_cat.png`` where there are several."""
    hidden: int = 0
    """Objects that the files cannot show, because better ones cover them."""


@dataclass(frozen=True)
class Recorded:
    """An image of a finished run, read back from its journal."""

    number: int
    """Place in the list of inputs, from 1: its id in files about all images."""
    name: str
    record: Record


@dataclass(frozen=True)
class About:
    """The model that a run used, for the files about all images."""

    name: str
    variant: str
    license: str
    categories: tuple[Category, ...]


class Known(NamedTuple):
    """What is known of an image besides the pixels that the network saw."""

    pixel_size: float | None = None
    """Micrometers."""
    channels: tuple[Sequence[float], ...] = ()
    """The mean of each object in each channel of the file, where some of several were chosen."""


@dataclass(frozen=True)
class Outputs(Generic[T]):
    """What is written of results: per image, and about all images together."""

    record: Callable[[str, T, NDArray[Any]], Record]
    """(name, packed result, image (H, W, 3)) -> record for the journal."""
    named: Callable[[RGBImage, T], RGBImage] = lambda canvas, result: canvas
    """(rendered result, what is on it) -> the same with words, for large overlays; thumbnails go without."""
    writers: Mapping[str, Callable[[str, T, NDArray[Any]], Written]] = field(default_factory=dict)
    """``--save KIND``: (the image's name, packed result, image) -> files."""
    collections: Mapping[str, Callable[[Callable[[], Iterable[Recorded]], About], Iterator[str]]] = field(
        default_factory=dict
    )
    """File about all images -> its text, streamed; the records can be asked for more than once."""
    completed: Mapping[str, Callable[[bytes, T, Known], bytes]] = field(default_factory=dict)
    """``--save KIND`` -> (a file of it, packed result, what else is known) -> the same with that in it."""
    intensities: Callable[[T, NDArray[Any]], list[float]] | None = None
    """(packed result, one channel (H, W, 1)) -> the mean of each object in it."""
    noun: str = "object"
    """What ``objects`` of a record counts, in the singular."""


@dataclass(frozen=True)
class Task(Generic[T]):
    """One kind of result; a model class names its own as ``task``."""

    name: str
    target: type[T]
    """The noun that models learn from and predict."""
    scoring: Scoring[T]
    shown: Callable[[T, float], T]
    """(result, score threshold) -> what a user is shown of it."""
    choose: Callable[[T, Sequence[str], int | None], T]
    """(result, class names or none for all, largest number) -> what a user asked for."""
    merge: Callable[[Sequence[T], Sequence[Box], tuple[int, int]], T]
    """(results of overlapping tiles, each in its tile's pixels; the tiles; (height, width) of the image) -> one."""
    render: Callable[[NDArray[Any], T, DrawOptions | None], RGBImage]
    """(image (H, W, 3), result on it, options) -> what people look at."""
    outputs: Outputs[T]
    sections: Callable[[Sequence[T], Sequence[T], Settings], tuple[Section, ...]]
    """(predictions, targets, settings) -> the sections of an evaluation."""
    measures: Callable[[Sequence[T], Sequence[T], Settings], Measures] | None = None
    """The same, where there is more to say than sections do; None: what they say is all."""
    judged: Callable[[T, T], Verdict] | None = None
    """(what a user is shown, target) of one image -> how it went; None: by the quality of ``scoring`` alone."""
    storage: Storage[T] | None = None
    """How predictions on a data set of objects are kept while it is predicted for an evaluation, and results files are
    read; None: as ``kept`` says."""
    packed: Callable[[T], T] = lambda result: result
    """As it is kept until it is written or measured: small, on the CPU, in runs."""
    with_categories: Callable[[T, tuple[Category, ...]], T] = lambda result, categories: result
    """(result, the model's categories) -> the same, with names for its labels."""
    kept: Kept[T] | None = None
    """A result as arrays: how tiles of a large image and predictions of an evaluation are kept, so that what was
    interrupted resumes; None: it begins anew. Classes are matched by name where results have ``relabeled``
    (:class:`~eachmask.structures.spatial.Labeled`)."""
    files: Format | None = None
    """The format of predictions that are a file for each image: what ``outputs`` writes, and any tool; None: there are
    none, or ``storage`` reads them."""
    merge_evenly: Callable[[Sequence[T], Sequence[Box], tuple[int, int]], T] | None = None
    """The same as ``merge``, but all tiles that see a pixel count alike; None: nothing is averaged."""
    join: Callable[[Sequence[T], float, int | None], T] | None = None
    """(what several looks at one image found, least score, largest number) -> one; None: they are not joined."""
    mixes: bool = False
    """Objects of one training image can be pasted into another."""

    @property
    def labeled(self) -> bool:
        """Its results speak of categories (:class:`~eachmask.structures.spatial.Labeled`); mattes do not."""
        return hasattr(self.target, "relabeled")

    def measure(self, predictions: Sequence[T], targets: Sequence[T], settings: Settings) -> Measures:
        """All measures of predictions, one for each target."""
        if self.measures is not None:
            return self.measures(predictions, targets, settings)
        from eachmask.tasks.measures import SectionMeasures

        return SectionMeasures(self.sections(predictions, targets, settings))

    def verdict(self, shown: T, target: T) -> Verdict:
        """How one image went."""
        if self.judged is not None:
            return self.judged(shown, target)
        quality = self.scoring.quality(shown, target)
        return Verdict(quality, f"{self.scoring.measure} {quality:.2f}")


def legend(canvas: RGBImage, result: Any) -> RGBImage:
    """The ``named`` of maps."""
    from eachmask import draw

    return draw.write_classes(canvas, result)


def overlay(image: NDArray[Any], result: Any, options: DrawOptions | None) -> RGBImage:
    """The ``render`` of all results that :mod:`eachmask.draw` knows."""
    from eachmask import draw  # late, because it brings fonts and image writers in

    return draw.overlay(image, result, options)
