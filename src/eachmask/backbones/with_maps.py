"""A backbone that sees more than the image: maps of clicks, points or distances join it after the first convolution.

RITM (Sofiiuk et al., arXiv 2102.06583, section 3.1) compares where to let clicks in; after the first block (*Conv1S*)
pretrained weights still see the images that they know.
"""

from __future__ import annotations

from torch import Tensor

from eachmask.backbones.features import Features
from eachmask.backbones.networks import Timm


class TimmWithMaps(Timm):
    """A timm EfficientNet to whose first map something is added.

    Args:
        name: for example tf_efficientnet_lite0.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.stem_channels: int = self.net.conv_stem.out_channels
        self.ends = [int(part.split(".")[1]) for part in self.net.feature_info.module_name()]

    def forward(self, images: Tensor, added: Tensor | None = None) -> Features:
        """Images (B, 3, H, W), and (B, stem_channels, H / 2, W / 2) -> maps from stride 4 on."""
        x = self.net.bn1(self.net.conv_stem(images))
        x = x if added is None else x + added[:, :, : x.shape[2], : x.shape[3]]
        maps = []
        for number, stage in enumerate(self.net.blocks):
            x = stage(x)
            if number in self.ends:
                maps.append(x)
        return Features(tuple(maps[self.first :]), self.strides, self.channels)
