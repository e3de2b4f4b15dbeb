"""The nouns that travel between the rooms. This room imports nothing else from ``eachmask``.

Words and units, fixed once for the whole project:

- ``boxes``: float (N, 4) xyxy in pixels of the image they travel with, half-open,
  ``0 <= x1 <= x2 <= width``; ``points``: (..., 2) as (x, y), the center of the first pixel is (0.5, 0.5).
- sizes are ``(height, width)``.
- ``images`` are float RGB in 0..1 until :class:`Preprocess` makes an :class:`ImageBatch` of them; the batch is
  normalized and padded.
- ``labels``: int 0..K-1, background is never a label; ``scores``: 0..1; ``logits`` are logits,
  ``probabilities`` are probabilities.
- ``targets`` is what was given, ``raw`` what the network said, ``instances`` what we tell the user.
- counts are ``num_x``; a dict key is never an interface.

Names come in when first used, so that masks can be had without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eachmask.structures.lazy import lazy_room

if TYPE_CHECKING:
    from eachmask.structures.backdrop import Backdrop
    from eachmask.structures.bitmaps import Bitmaps
    from eachmask.structures.category import Category
    from eachmask.structures.decode import DecodeOptions
    from eachmask.structures.errors import UserError
    from eachmask.structures.images import ImageBatch
    from eachmask.structures.instances import Instances
    from eachmask.structures.masks import Masks, Overlaps
    from eachmask.structures.matte import Matte
    from eachmask.structures.panoptic_map import PanopticMap, Segment
    from eachmask.structures.polygons import Polygons
    from eachmask.structures.preprocess import Preprocess
    from eachmask.structures.prompts import Prompts
    from eachmask.structures.rle import RLE
    from eachmask.structures.roi_masks import RoIMasks
    from eachmask.structures.semantic_map import SemanticMap
    from eachmask.structures.soft_masks import SoftMasks
    from eachmask.structures.spatial import Spatial
    from eachmask.structures.trimap import Trimap
    from eachmask.structures.view import View, Viewable

__all__ = [
    "Backdrop",
    "Bitmaps",
    "Category",
    "DecodeOptions",
    "ImageBatch",
    "Instances",
    "Masks",
    "Matte",
    "Overlaps",
    "PanopticMap",
    "Polygons",
    "Preprocess",
    "Prompts",
    "RLE",
    "RoIMasks",
    "Segment",
    "SemanticMap",
    "SoftMasks",
    "Spatial",
    "Trimap",
    "UserError",
    "View",
    "Viewable",
]

_HOMES = {
    "Backdrop": "backdrop",
    "Bitmaps": "bitmaps",
    "Category": "category",
    "DecodeOptions": "decode",
    "ImageBatch": "images",
    "Instances": "instances",
    "Masks": "masks",
    "Matte": "matte",
    "Overlaps": "masks",
    "PanopticMap": "panoptic_map",
    "Polygons": "polygons",
    "Preprocess": "preprocess",
    "Prompts": "prompts",
    "RLE": "rle",
    "RoIMasks": "roi_masks",
    "Segment": "panoptic_map",
    "SemanticMap": "semantic_map",
    "SoftMasks": "soft_masks",
    "Spatial": "spatial",
    "Trimap": "trimap",
    "UserError": "errors",
    "View": "view",
    "Viewable": "view",
}
"""Name -> the module that defines it."""

__getattr__, __dir__ = lazy_room(__name__, __path__, _HOMES)
