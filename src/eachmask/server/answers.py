"""From the bytes of a request to an image, and from a result to those of an answer, as `eachmask predict` writes."""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from eachmask.files.journal import compact_json
from eachmask.structures import UserError
from eachmask.tasks.task import About, Recorded, Task, Written

if TYPE_CHECKING:
    from eachmask.inference.predictor import Predictor

OVERLAY = "overlay"
"""The image with the result drawn in."""
JSON = "json"
_TYPES = {
    ".json": "application/json", ".geojson": "application/geo+json", ".csv": "text/csv", ".png": "image/png",
    ".tif": "image/tiff", ".jpg": "image/jpeg", ".zip": "application/zip",
}  # fmt: skip
_NAME = "image"
"""What files call an image that came without a name."""


def read_body(content: bytes, max_pixels: int) -> NDArray[Any]:
    """The image (H, W, 3) that a request holds, of any format that files have.

    Raises:
        UserError: it is no image, or one with more pixels than that.
    """
    from eachmask.data.images.read import read_image

    if not content:
        raise UserError("the request is empty: send an image file as its body")
    with tempfile.TemporaryDirectory(prefix="eachmask-") as folder:
        path = Path(folder) / _NAME
        path.write_bytes(content)
        try:
            return read_image(path, max_pixels=max_pixels)
        except UserError as error:  # where this machine keeps it is nobody's business
            raise UserError(str(error).replace(str(path), "the image")) from None


def formats(task: Task[Any]) -> tuple[str, ...]:
    """What results of a task can be asked for as."""
    return (JSON, OVERLAY, *task.outputs.writers)


def check_format(task: Task[Any], kind: str) -> None:
    """Whether results of a task can be had in a format.

    Raises:
        UserError: they cannot.
    """
    if kind not in formats(task):
        raise UserError(f"there is no format {kind!r} of {task.name}: take one of {', '.join(formats(task))}")


def answer(predictor: Predictor[Any], image: NDArray[Any], result: Any, kind: str) -> tuple[bytes, str]:
    """A result in one of the :func:`formats` -> content and its media type.

    Raises:
        UserError: the result cannot be written in it.
    """
    task = predictor.task
    if kind == OVERLAY:
        return _drawn(task, image, result), _TYPES[".png"]
    packed = task.packed(result)
    if kind == JSON:
        return _as_json(predictor, image, packed).encode(), _TYPES[".json"]
    return _one_file(task.outputs.writers[kind](_NAME, packed, image))


def _drawn(task: Task[Any], image: NDArray[Any], result: Any) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(task.render(image, result, None)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _as_json(predictor: Predictor[Any], image: NDArray[Any], packed: Any) -> str:
    """The file about all images of a folder, of this one; where a task has none, what a journal keeps of it."""
    outputs, info = predictor.task.outputs, predictor.info
    recorded = Recorded(1, _NAME, outputs.record(_NAME, packed, image))
    whole = outputs.collections.get("predictions.json")
    if whole is None:
        return compact_json(recorded.record.header | recorded.record.body)
    about = About(info.name, info.variant, info.license, tuple(predictor.categories))
    return "".join(whole(lambda: [recorded], about))


def _one_file(written: Written) -> tuple[bytes, str]:
    """The only file of an image, or an archive of them."""
    if len(written.files) == 1 and not next(iter(written.files)).startswith("/"):
        ((suffix, content),) = written.files.items()
        return content, _TYPES.get(suffix, "application/octet-stream")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:  # images and gzip do not shrink again
        for name, content in written.files.items():
            archive.writestr(name.lstrip("/"), content)
    return buffer.getvalue(), _TYPES[".zip"]
