"""What MMDetection's models have in common: a ResNet named as torchvision's, and a pyramid called ``neck``."""

from __future__ import annotations

from eachmask.weights.renaming import Rule

RESNET: tuple[Rule, ...] = ((r"^backbone\.(conv1|bn1|layer[1-4])\.", r"backbone.backbone.\1."),)


def fpn(levels: int) -> tuple[Rule, ...]:
    """Rules of a ResNet with a pyramid.

    Args:
        levels: so many of the pyramid's maps come from the backbone; the others are extra convolutions.
    """
    smooth = tuple((rf"^neck\.fpn_convs\.{i}\.conv\.", f"backbone.smooth.{i}.") for i in range(levels))
    extra = tuple((rf"^neck\.fpn_convs\.{levels + i}\.conv\.", f"backbone.extra.{i}.") for i in range(3))
    return (*RESNET, (r"^neck\.lateral_convs\.(\d)\.conv\.", r"backbone.lateral.\1."), *smooth, *extra)
