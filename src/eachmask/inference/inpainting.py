"""What was chosen is taken out of the image, and what might be behind it is painted in."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from eachmask.structures import Instances, UserError

PAINTER = "stable-diffusion-v1-5/stable-diffusion-inpainting"
"""What is fetched from the Hugging Face hub unless another name, folder or pipeline is given."""


def removed(image: NDArray[np.uint8], chosen: Instances, *, margin: int = 3, radius: float = 5.0) -> NDArray[np.uint8]:
    """The image without the chosen objects, filled from around them (Telea, 2004; OpenCV, no network needed).

    Args:
        image: (H, W, 3); chosen: objects with masks on it.
        margin: pixels around the masks that are painted over too, where an object's border shimmers.
        radius: of the surroundings that a pixel is filled from, px.

    Raises:
        UserError: the objects are of an image of another size.
    """
    hole = _hole(image, chosen, margin).astype(np.uint8)
    return np.asarray(cv2.inpaint(np.ascontiguousarray(image), hole, radius, cv2.INPAINT_TELEA), np.uint8)


def repainted(
    image: NDArray[np.uint8], chosen: Instances, words: str, pipeline: Any = PAINTER, *, margin: int = 3
) -> NDArray[np.uint8]:
    """The image with what words say in the place of the chosen objects, by a diffusers pipeline (extra ``inpaint``).

    Args:
        pipeline: a name or folder, or what is called as ``pipeline(prompt=, image=, mask_image=)`` and gives
        ``.images``.

    Returns:
        (H, W, 3); outside of the masks and the margin the image as it was.

    Raises:
        UserError: the objects are of an image of another size, or diffusers is not installed.
    """
    from PIL import Image

    hole = _hole(image, chosen, margin)
    paint = _pipeline(pipeline) if isinstance(pipeline, str) else pipeline
    mask = Image.fromarray(hole.astype(np.uint8) * 255)
    (painted, *_) = paint(prompt=words, image=Image.fromarray(image), mask_image=mask).images
    whole = np.asarray(painted.convert("RGB").resize((image.shape[1], image.shape[0])))
    return np.where(hole[..., None], whole, image).astype(np.uint8)


def _hole(image: NDArray[np.uint8], chosen: Instances, margin: int) -> NDArray[np.bool_]:
    """(H, W) the pixels of the chosen objects and a margin."""
    if chosen.image_size != image.shape[:2]:
        raise UserError(f"objects of an image of {chosen.image_size} (height, width) in one of {image.shape[:2]}")
    if not len(chosen):
        return np.zeros(image.shape[:2], bool)
    hole = chosen.gt_masks.union().decode()[0].astype(np.uint8)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin + 1, 2 * margin + 1))
    return np.asarray(cv2.dilate(hole, disc), bool)


def _pipeline(name: str) -> Any:
    try:
        from diffusers import AutoPipelineForInpainting
    except ImportError as error:
        raise UserError("repainting needs the package diffusers: pip install 'eachmask[inpaint]'") from error
    return AutoPipelineForInpainting.from_pretrained(name)
