"""Evaluation by name: a model, or predictions of any tool, on annotations in any format."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from eachmask.data.classes import Merge
from eachmask.data.dataset import Dataset
from eachmask.data.formats.yolo_texts import is_texts
from eachmask.data.samples import Samples
from eachmask.data.split import Split
from eachmask.evaluation.evaluation import Evaluation
from eachmask.evaluation.known_foreground import foreground_of
from eachmask.evaluation.predictions import predict_samples
from eachmask.evaluation.source import Source, open_source, write_annotations
from eachmask.evaluation.values import evaluate_values
from eachmask.files.atomic import write_text
from eachmask.files.progress import Progress, no_progress
from eachmask.inference.predictor import Predictor
from eachmask.structures import Category, UserError
from eachmask.structures.checks import check_path, kind_of
from eachmask.structures.decode import Paste, Suppression
from eachmask.tasks.instances import INSTANCES
from eachmask.tasks.kept_storage import in_classes
from eachmask.tasks.settings import Settings
from eachmask.tasks.task import Predictions, Task
from eachmask.weights.catalogue import entries


def evaluate(
    model: str | Path | Predictor[Any] | Sequence[Any],
    data: str | Path | Dataset[Any] | Samples[Any],
    out: str | Path | None = None,
    *,
    split: str = "val",
    images: str | Path | None = None,
    merge: Merge | None = None,
    known_foreground: bool = False,
    compare: str | Path | None = None,
    task: Task[Any] | None = None,
    score: float | None = None,
    resamples: int = 200,
    boundary: bool = True,
    seed: int = 0,
    gallery: int = 5,
    video: bool = False,
    device: str = "auto",
    precision: str = "auto",
    side: int | None = None,
    nms: Suppression | None = None,
    paste: Paste = "accurate",
    say: Callable[[str], None] = lambda sentence: None,
    progress: Progress = no_progress,
) -> Evaluation:
    """Measure a model, or predictions, against annotated images.

    >>> import eachmask, json, torch
    >>> folder = Path(tempfile.mkdtemp())
    >>> ring = {"id": 1, "image_id": 1, "category_id": 3, "iscrowd": 0, "segmentation": [[1, 1, 5, 1, 5, 3, 1, 3]]}
    >>> images = [{"id": 1, "file_name": "a.png", "width": 6, "height": 4}]
    >>> content = {"images": images, "annotations": [ring], "categories": [{"id": 3, "name": "cell"}]}
    >>> _ = (folder / "instances_val.json").write_text(json.dumps(content))
    >>> found = eachmask.data.read(folder).splits["val"].targets(0)  # predictions that are what was annotated
    >>> found.scores = torch.tensor([0.9])
    >>> measures = evaluate([found], folder, resamples=0)
    >>> round(measures.value("ap"), 3), measures.value("pq")
    (1.0, 1.0)

    Args:
        model: name, file or run folder of a model, or a predictor; or predictions: a COCO results file (a ``Path``, or
            a string that ends in ``.json``), the ``Path`` of a folder of YOLO's texts, with ``task`` a folder of maps
            or mattes, or one result for each image, in order.
        data: file or folder in any format that can be read, a data set that was read already, or samples of any target
            (maps, mattes).
        out: folder that gets report.html, evaluation.json and, of a model, predictions.json; None writes nothing.
        split: part of a folder to measure on; all of it where it has no parts.
        images: folder of the images, where ``data`` is a file; by default the one the file lies in.
        merge: measure fewer classes: the annotated ones' parents, or all as one.
        known_foreground: hand the annotated foreground to a model that takes one: how well it tells objects apart.
        compare: results of a second model on the same images.
        task: of predictions that are given as values or files; objects by default. A model says its own.
        score, resamples, boundary, seed, gallery, video: see :class:`~eachmask.tasks.settings.Settings`.
        device, precision, side: how a model predicts, see :func:`eachmask.load`.
        nms, paste: how it decodes, ``suppression`` and ``paste`` of :class:`~eachmask.structures.DecodeOptions`.
        say: told what is odd about the data, a sentence at a time.

    Raises:
        UserError: files that cannot be used, no class in common, or a setting out of its range.
    """
    _check(model, task, {"folder out": out, "folder of images": images, "file to compare with": compare})
    settings = Settings(score, resamples, boundary, seed, gallery, video)
    is_model = isinstance(model, Predictor) or (isinstance(model, str | Path) and not _is_results(model, task))
    decoding = ({} if nms is None else {"suppression": nms}) | ({} if paste == "accurate" else {"paste": paste})
    if not is_model and (side is not None or precision != "auto" or decoding or known_foreground):
        raise UserError(
            "--side, --precision, --nms, --paste and --known-foreground say how a model predicts; the predictions of a "
            "file are as they are"
        )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()) if out is None else out)
        predictor = _loaded(model, device, precision, side).decoding(**decoding) if is_model else None
        task = (task or INSTANCES) if predictor is None else predictor.task
        source = open_source(data, split, None if images is None else Path(images), merge, say, progress, task.target)
        if out is not None:
            folder.mkdir(parents=True, exist_ok=True)
            _write_source(source, folder)
        unread: list[str] = []
        if predictor is not None:
            own = predictor.decode_options().score_threshold  # from which on users are shown objects
            settings = replace(settings, score=own if score is None else score)
            source, found, unread = _of_model(predictor, source, folder, side, known_foreground, say, progress)
            if unread and compare is not None:
                raise UserError(
                    f"the two models would not be compared on the same images: {unread[0]}; repair that first"
                )
        else:
            found = _of_results(task, model, source)
        others = None if compare is None else (Path(compare).stem, _of_results(task, compare, source).found)
        evaluation = evaluate_values(
            task,
            found.found,
            source.targets(),
            settings,
            name=Path(model).name if isinstance(model, str | Path) else repr(model) if is_model else "predictions",
            data=source.name,
            images=source.images(),
            others=others,
            notes=[*found.notes, *source.notes],
            published=_published(model) if merge is None else {},  # the makers' numbers are of their own classes
        )
        evaluation = replace(evaluation, unread=unread)
        if out is not None:
            for name, content in found.files.items():
                write_text(folder / name, content)
            evaluation.save(folder)
    return evaluation


def _check(model: Any, task: Any, paths: dict[str, Any]) -> None:
    """Refuse what is of another type than :func:`evaluate` takes, in a sentence."""
    if not isinstance(model, str | Path | Predictor | Sequence) or isinstance(model, bytes):
        raise UserError(
            f"a model or its predictions are needed: a name, a file, or a result for each image, not {kind_of(model)}"
        )
    if not isinstance(task, Task | None):
        raise UserError(f"task must be one of eachmask.tasks, not {task!r}: eachmask.tasks.semantic.SEMANTIC, say")
    for name, path in paths.items():
        if path is not None:
            check_path(name, path)


def _is_results(model: str | Path, task: Task[Any] | None) -> bool:
    path = Path(model)
    if task is not None and task.files is not None and path.is_dir() and not (path / "model.safetensors").is_file():
        return True
    if isinstance(model, Path) and path.is_dir() and is_texts(path):
        return True
    return path.suffix == ".json" or (isinstance(model, Path) and path.suffix != ".safetensors" and not path.is_dir())


def _loaded(model: Any, device: str, precision: str, side: int | None) -> Predictor[Any]:
    from eachmask.inference.load import load

    return model if isinstance(model, Predictor) else load(model, device=device, precision=precision, side=side)


def _published(model: Any) -> dict[str, float]:
    entry = entries().get(model) if isinstance(model, str) else None
    return {} if entry is None else entry.by_metric()


def _write_source(source: Source, folder: Path) -> None:
    """The annotations in COCO's format, where they are not yet: predictions.json speaks of its ids."""
    if isinstance(source.samples, Split) and source.samples.entries is None:
        write_annotations(source, folder / "annotations.json")


def _of_model(
    predictor: Predictor[Any],
    source: Source,
    folder: Path,
    side: int | None,
    known_foreground: bool,
    say: Callable[[str], None],
    progress: Progress,
) -> tuple[Source, Predictions[Any], list[str]]:
    """Predict all images; the images that could be read, what was found on them, and why the others could not."""
    known, storage = predictor.categories, source.storage(predictor.task)
    notes = _matched(source, known if predictor.task.labeled else ())
    given = foreground_of(predictor, source) if known_foreground else None
    predicted = predict_samples(predictor, source, folder / "predicted", progress, given)
    if predicted.resumed:
        say(f"{predicted.resumed} images had been predicted before the last run ended.")
    notes.append(f"predicted by {predictor!r}" + (f", longer side {side} px" if side else ""))
    notes += ["the model was handed the annotated foreground: only how it tells objects apart is measured"] * (
        given is not None
    )
    unread = list(predicted.unread.values())
    if unread:
        number = f"{len(unread)} of {len(source.samples)} images"
        notes += [f"{number} were left out, for they could not be predicted:", *unread]
    source = source.without(set(predicted.unread))
    if storage is None:
        found = in_classes(predicted.bodies, known, source.classes)
    else:
        found = storage.load(predicted.bodies, source.samples, known, source.classes)
    return source, replace(found, notes=[*notes, *found.notes]), unread


def _matched(source: Source, known: tuple[Category, ...]) -> list[str]:
    """What to note of a model's classes.

    Raises:
        UserError: before anything is predicted: it has none in common with the data.
    """
    if known and source.classes.categories:
        source.classes.labels_of(known)
    names = {category.name for category in source.classes.categories}
    parents = {category.parent for category in source.classes.categories} - names
    if any(category.name in parents for category in known):
        return ["the model knows supercategories of the annotated classes: --merge supercategories measures these"]
    return []


def _of_results(task: Task[Any], results: Any, source: Source) -> Predictions[Any]:
    """Predictions that are there already: a file, or one value for each image in the data set's order."""
    storage = source.storage(task)
    if isinstance(results, str | Path):
        if storage is None or storage.read is None:
            raise UserError(f"{results}: predictions of {task.name} on these samples are no file: give the model")
        return storage.read(Path(results), source.samples, source.classes)
    odd = [kind_of(one) for one in results if not isinstance(one, task.target)]
    if odd:
        raise UserError(f"a prediction must be {task.target.__name__}, as those of a model, not {odd[0]}")
    if len(results) != len(source.samples):
        raise UserError(f"{len(results)} predictions for {len(source.samples)} images: give one for each, in order")
    found = source.in_order(results)
    known = next((one.categories for one in found if getattr(one, "categories", ())), source.classes.categories)
    if storage is None or storage.read is None:
        return in_classes(found, known, source.classes)
    bodies = [storage.dump(task.packed(task.with_categories(one, known))) for one in found]
    return storage.load(bodies, source.samples, known, source.classes)
