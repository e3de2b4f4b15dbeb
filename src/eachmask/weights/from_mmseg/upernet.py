"""MMSegmentation's UPerNet on a Swin transformer or a ResNet."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eachmask.weights import swin
from eachmask.weights.from_mmseg.heads import AUX, RESNET, conv, pooling
from eachmask.weights.renaming import Rule, rename, unwrapped

RULES: tuple[Rule, ...] = (
    *RESNET,
    *AUX,
    *pooling("classifier.top."),
    *(
        (rf"^decode_head\.{theirs}_convs\.(\d)\.{part}\.", rf"classifier.{ours}.\1.{number}.")
        for theirs, ours in (("lateral", "lateral"), ("fpn", "smooth"))
        for part, number in (("conv", 0), ("bn", 1))
    ),
    *conv(r"decode_head\.fpn_bottleneck\.", "classifier.join."),
    (r"^decode_head\.conv_seg\.", "classes."),
)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """MMSegmentation's state dict -> that of our ``upernet_*``.

    Raises:
        UserError: an entry that no rule knows.
    """
    state = unwrapped(state)
    encoder = {name.removeprefix("backbone."): value for name, value in state.items() if name.startswith("backbone.")}
    if not any(name.startswith(("patch_embed.", "stages.")) for name in encoder):
        return rename(state, RULES, "MMSegmentation")
    heads = {name: value for name, value in state.items() if not name.startswith("backbone.")}
    found = {f"backbone.{name}": value for name, value in swin.from_mmdet(encoder).items()}
    return found | rename(heads, RULES, "MMSegmentation")
