"""ImageView: a result over the image that it was predicted from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from eachmask.data.images.read import as_array, read_image
from eachmask.tasks.task import Task

if TYPE_CHECKING:
    from eachmask.inference.predictor import ImageLike

T = TypeVar("T")


@dataclass(frozen=True)
class ImageView(Generic[T]):
    """The image, or only its file, and how the task draws on it.

    A file is read when somebody looks, so that the results of many images take no room for them.
    """

    image: ImageLike
    task: Task[T]

    def render(self, result: T) -> NDArray[np.uint8]:
        """The result over the image, (H, W, 3) uint8 RGB."""
        image: NDArray[Any] = read_image(self.image) if isinstance(self.image, str | Path) else as_array(self.image)
        return self.task.render(image, result, None)
