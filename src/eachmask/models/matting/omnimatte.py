"""Omnimatte: objects of one video with all that belongs to them: shadows, reflections, smoke.

Lu, Cole, Dekel, Zisserman, Freeman, Rubinstein: "Omnimatte: Associating Objects and Their Effects in Video", CVPR 2021,
arXiv 2105.06993. Written from the paper.

The idea: a video is a background that stays, and one layer of colors and opacities for each object. A network that sees
nothing of the video but an object's mask says that object's layer; it learns from this one video, so that the layers
before the background give the frames again. What moves with the mask is easiest to say from the mask: thus a shadow
comes into the layer of the object that casts it. That opacities cost something keeps the layers empty elsewhere.

Where we differ from the paper: the camera stands still; flow is neither seen nor reconstructed; the network is small
and starts at the mask, which it may not take back; the colors of a layer are solved for at the end, so that the layers
give the frames again as far as colors can (the paper transfers what is left over).

Shapes: T frames of H x W px, N objects.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eachmask.models.matting.small_unet import SmallUNet
from eachmask.structures import UserError

NOISE = 3
"""Channels of noise that stays, by which the network tells places from one another."""
START = 4.0
"""Logit of the opacity in a mask before anything is learned, and minus that outside."""


@dataclass(frozen=True)
class Config:
    """How it learns."""

    widths: tuple[int, ...] = (16, 32, 48, 64, 64)
    """Channels at the frames' own resolution, at half of it, and so on: five see 90 px far."""
    steps: int = 600
    batch_size: int = 4
    """Frames of a step."""
    learning_rate: float = 2e-3
    sparsity: float = 0.02
    """What an opaque pixel costs, relative to one whose color is wrong by the full range."""
    mask_weight: float = 1.0
    """What a pixel of the mask that is not opaque costs."""


class Layers(NamedTuple):
    """A video taken apart; the last object lies in front."""

    alpha: Tensor  # (N, T, H, W) 0..1
    colors: Tensor  # (N, T, 3, H, W) RGB 0..1
    background: Tensor  # (3, H, W)

    def composite(self) -> Tensor:
        """The frames again, (T, 3, H, W)."""
        return _over(self.background, self.colors, self.alpha)


def omnimatte(
    frames: NDArray[np.uint8],
    masks: NDArray[np.bool_],
    config: Config | None = None,
    seed: int = 0,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> Layers:
    """Take a short video apart.

    Args:
        frames: (T, H, W, 3) RGB of a camera that stands still.
        masks: (N, T, H, W), the last object in front.
        on_step: told the number of steps that are done, and the loss of the last one.

    Raises:
        UserError: there is no object, or masks of another size.
    """
    config = config or Config()
    if masks.ndim != 4 or masks.shape[1:] != frames.shape[:3]:
        raise UserError(
            f"masks of {masks.shape[1:]} for frames of {frames.shape[:3]}: there must be one for each frame"
        )
    if not masks.any():
        raise UserError("no frame has an object: nothing can be taken out of it")
    torch.manual_seed(seed)
    seen = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
    known = torch.from_numpy(masks).float()
    model = _Model(_behind(frames, masks), config)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    for step in range(config.steps):
        chosen = torch.randint(len(seen), (min(config.batch_size, len(seen)),))
        loss = model.loss(seen[chosen], known[:, chosen], config)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        on_step(step + 1, float(loss.detach()))
    return model.layers(seen, known)


class _Model(nn.Module):
    """The background, and the network that says layers."""

    noise: Tensor

    def __init__(self, behind: Tensor, config: Config) -> None:
        super().__init__()
        self.background = nn.Parameter(behind)
        self.net = SmallUNet(1 + NOISE, 4, config.widths)
        self.register_buffer("noise", torch.randn(NOISE, *behind.shape[1:]))

    def forward(self, masks: Tensor) -> tuple[Tensor, Tensor]:
        """(N, T, H, W) -> opacities (N, T, H, W) and colors (N, T, 3, H, W)."""
        flat = masks.flatten(0, 1)[:, None]
        said = self.net(torch.cat([flat, self.noise.expand(len(flat), -1, -1, -1)], 1))
        alpha = (said[:, :1] + START * (2 * flat - 1)).sigmoid()
        return alpha[:, 0].unflatten(0, masks.shape[:2]), said[:, 1:].sigmoid().unflatten(0, masks.shape[:2])

    def loss(self, frames: Tensor, masks: Tensor, config: Config) -> Tensor:
        """Differences from the frames, and what opacities cost."""
        alpha, colors = self(masks)
        apart = (_over(self.background, colors, alpha) - frames).abs().mean()
        some = 2 * (5 * alpha).sigmoid() - 1  # nearly the number of pixels that are not empty
        sparse = ((alpha + some) / 2 * (1 - masks)).mean()
        missing = ((1 - alpha) * masks).mean()
        total: Tensor = apart + config.sparsity * sparse + config.mask_weight * missing
        return total

    @torch.inference_mode()
    def layers(self, frames: Tensor, masks: Tensor) -> Layers:
        """One frame after the other; colors are solved for, from the back to the front."""
        self.eval()
        parts = [self(masks[:, t : t + 1]) for t in range(len(frames))]
        alpha, colors = (torch.cat(part, 1) for part in zip(*parts, strict=True))
        background = self.background.clamp(0, 1)
        for number in range(len(alpha)):
            rest = torch.ones(len(frames), 1, *frames.shape[2:])
            for front in alpha[number + 1 :]:
                rest = rest * (1 - front[:, None])
            left = frames - _over(background, colors, alpha)
            own = alpha[number][:, None] * rest
            colors[number] = (colors[number] + left / own.clamp(min=1e-3) * (own > 1e-3)).clamp(0, 1)
        return Layers(alpha, colors, background)


def _over(background: Tensor, colors: Tensor, alpha: Tensor) -> Tensor:
    """(3, H, W) with layers (N, T, 3, H, W) before it: (T, 3, H, W)."""
    found = background.expand(alpha.shape[1], -1, -1, -1)
    for own, opacity in zip(colors, alpha, strict=True):
        found = torch.lerp(found, own, opacity[:, None])
    return found


def _behind(frames: NDArray[np.uint8], masks: NDArray[np.bool_]) -> Tensor:
    """(3, H, W) the median of what is seen beside the masks; where a mask always lies, of all."""
    seen = np.where(np.expand_dims(masks.any(0), -1), np.nan, frames.astype(np.float32))
    hidden = np.isnan(seen).all(0)
    seen[:, hidden] = frames.astype(np.float32)[:, hidden]
    return torch.from_numpy(np.nanmedian(seen, 0).astype(np.float32) / 255).permute(2, 0, 1).contiguous()
