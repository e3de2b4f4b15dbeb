"""torchvision's residual blocks, exchanged whole: the addition rides on the last convolution's write."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from eachmask.backbones.fuse.conv import RELU, FastConv2d
from eachmask.backbones.fuse.recognize import classes, is_hooked


class ResidualBlock(nn.Module):
    """A folded ResNet block: convolutions, then addition of the shortcut and ReLU in the last one's write."""

    def __init__(self, convs: list[FastConv2d], shortcut: nn.Module | None) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convs)
        self.shortcut = shortcut

    def forward(self, x: Tensor, overwrite: bool = False) -> Tensor:
        """`overwrite` lets the result take the memory of `x`, which the caller then must not read again."""
        if self.shortcut is not None:
            residual = self.shortcut(x)
        else:
            residual = x if overwrite else x.clone()
        for conv in self.convs[:-1]:
            x = conv(x)
        last: Any = self.convs[-1]
        return last.add_to(residual, x)  # type: ignore[no-any-return]


class ResidualStage(nn.Sequential):
    """Residual blocks in a row. Only the next block reads a block's output, so it may overwrite it."""

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to the last block's output."""
        for i, block in enumerate(self):
            x = block(x, overwrite=i > 0 and not (torch.is_grad_enabled() and x.requires_grad))
        return x


def fast_stage(blocks: nn.Sequential) -> ResidualStage | None:
    """The stage for a Sequential of torchvision's residual blocks with nothing but folded convolutions."""
    fast = [block for block in map(_fast_block, blocks) if block is not None]
    return ResidualStage(*fast) if fast and len(fast) == len(blocks) else None


def _fast_block(block: Any) -> ResidualBlock | None:
    kinds = classes("torchvision.models.resnet", "BasicBlock", "Bottleneck")
    if type(block) not in kinds or any(is_hooked(module) for module in block.modules()):
        return None
    numbers = [n for n in "123" if hasattr(block, "conv" + n)]
    convs, norms = ([getattr(block, kind + n) for n in numbers] for kind in ("conv", "bn"))
    if not all(type(c) is FastConv2d for c in convs) or not all(type(n) is nn.Identity for n in norms):
        return None
    for conv in convs:
        conv.activation = RELU
    return ResidualBlock(convs, block.downsample)
