"""MMSegmentation's DeepLabv3+ (``deeplabv3plus_r50-d8``)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from eachmask.weights.from_mmseg.heads import AUX, RESNET, conv, separable
from eachmask.weights.renaming import Rule, rename, unwrapped

RULES: tuple[Rule, ...] = (
    *RESNET,
    *AUX,
    *(
        (rf"^decode_head\.image_pool\.1\.{theirs}\.", f"classifier.aspp.convs.4.{ours}.")
        for theirs, ours in (("conv", 1), ("bn", 2))
    ),
    *conv(r"decode_head\.aspp_modules\.0\.", "classifier.aspp.convs.0."),
    *(
        rule
        for i in (1, 2, 3)
        for rule in separable(rf"decode_head\.aspp_modules\.{i}\.", f"classifier.aspp.convs.{i}.")
    ),
    *conv(r"decode_head\.bottleneck\.", "classifier.aspp.project."),
    *conv(r"decode_head\.c1_bottleneck\.", "classifier.low.0."),
    *(rule for i in (0, 1) for rule in separable(rf"decode_head\.sep_bottleneck\.{i}\.", f"classifier.fuse.0.{i}.")),
    (r"^decode_head\.conv_seg\.", "classes."),
)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """MMSegmentation's state dict -> that of our ``deeplabv3plus_r50_d8``.

    Where maps are joined, theirs have the mean of the image first and the finer map last, ours the other way round.

    Raises:
        UserError: an entry that no rule knows.
    """
    found = rename(unwrapped(state), RULES, "MMSegmentation")
    if "classifier.aspp.project.0.weight" in found:
        width = len(found["classifier.aspp.convs.0.0.weight"])
        found["classifier.aspp.project.0.weight"] = found["classifier.aspp.project.0.weight"].roll(-width, 1)
    if "classifier.low.0.0.weight" in found:
        low = len(found["classifier.low.0.0.weight"])
        for name in [name for name in found if name.startswith("classifier.fuse.0.0.")]:
            found[name] = _low_first(name, found[name], low)
    return found


def _low_first(name: str, value: Tensor, low: int) -> Tensor:
    """The first fusing layer's entry with the finer map's channels in front."""
    layer = name.split(".")[4]
    if layer in ("0", "1") and value.ndim:
        return torch.roll(value, low, 0)
    return torch.roll(value, low, 1) if layer == "3" else value
