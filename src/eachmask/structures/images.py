"""A batch of images of different sizes in one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ImageBatch:
    """What a network eats.

    ``tensor`` is (B, 3, H, W) float, already normalized, zero-padded at the bottom and right; ``sizes``
    holds the valid (height, width) of each image, in the top-left corner.

    Raises:
        ValueError: the sizes are not B, or larger than the tensor.

    >>> batch = ImageBatch.from_tensors([torch.zeros(3, 40, 60), torch.zeros(3, 64, 20)])
    >>> batch.tensor.shape, batch.sizes
    (torch.Size([2, 3, 64, 64]), ((40, 60), (64, 20)))
    """

    tensor: Tensor
    sizes: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        shape = tuple(self.tensor.shape)
        if len(shape) != 4 or shape[0] != len(self.sizes):
            raise ValueError(f"{len(self.sizes)} sizes for a batch of shape {shape}")
        if any(height > shape[2] or width > shape[3] for height, width in self.sizes):
            raise ValueError(f"sizes {self.sizes} do not fit into a batch of shape {shape}")

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def num_images(self) -> int:
        """B."""
        return len(self.sizes)

    @staticmethod
    def from_tensors(images: Sequence[Tensor], divisor: int = 32, least: tuple[int, int] = (0, 0)) -> ImageBatch:
        """Pad (3, h, w) images to a common size, at least (height, width), whose sides are multiples of divisor.

        Raises:
            ValueError: there is no image.
        """
        if not images:
            raise ValueError("a batch needs at least one image")
        sides = (max(length, *(int(image.shape[side]) for image in images)) for side, length in enumerate(least, 1))
        height, width = (-(-side // divisor) * divisor for side in sides)
        tensor = images[0].new_zeros((len(images), images[0].shape[0], height, width))
        for slot, image in zip(tensor, images, strict=True):
            slot[:, : image.shape[1], : image.shape[2]] = image
        return ImageBatch(tensor, tuple((int(i.shape[1]), int(i.shape[2])) for i in images))

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> ImageBatch:
        """The batch on another device, channels last (the faster layout on CPU and GPU alike)."""
        return ImageBatch(self.tensor.to(device=device, dtype=dtype, memory_format=torch.channels_last), self.sizes)
