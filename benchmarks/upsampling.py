"""One image enlarged in eight ways: the figure of docs/methods/upsampling.md.

python benchmarks/upsampling.py [docs/images/upsampling.jpg]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from skimage import data
from torch import Tensor
from torch.nn import functional as F

from eachmask.ops import upsampling as up

FACTOR = 4
FIGURE = Path(__file__).resolve().parent.parent / "docs" / "images" / "upsampling.jpg"


def ways(small: Tensor, large: Tensor) -> dict[str, Tensor]:
    """Name -> (1, 3, H, W) in 0..1, how much of a checkerboard it has behind the name."""
    pooled, switches = up.max_pool(large, FACTOR)
    torch.manual_seed(0)
    weight = torch.eye(3).repeat_interleave(FACTOR**2, 0)[..., None, None]
    random = weight * (1 + 0.3 * torch.randn(3 * FACTOR**2, 1, 1, 1))
    calm = up.icnr_(random.clone(), FACTOR)
    odd = torch.zeros(3, 3, FACTOR + 1, FACTOR + 1)
    odd[torch.arange(3), torch.arange(3)] = 1.0
    found = {
        "bed of nails": up.bed_of_nails(small, FACTOR),
        **{mode: up.interpolated(small, mode, FACTOR) for mode in ("nearest", "bilinear", "bicubic")},
        "max un-pooling": up.max_unpool(pooled, switches, tuple(large.shape[-2:]), FACTOR),
        "transposed, kernel 5": F.conv_transpose2d(small, odd / 1.5, stride=FACTOR)[
            ..., : large.shape[2], : large.shape[3]
        ],
        "sub-pixel, random": up.sub_pixel(F.conv2d(small, random), FACTOR),
        "sub-pixel with ICNR": up.sub_pixel(F.conv2d(small, calm), FACTOR),
    }
    return {f"{name}: {float(up.checkerboard(value, FACTOR)):.2f}": value.clamp(0, 1) for name, value in found.items()}


def main(target: Path) -> None:
    image = torch.from_numpy(data.astronaut()[30:222, 140:332].copy()).permute(2, 0, 1)[None] / 255
    small = F.avg_pool2d(image, FACTOR)
    tiles = [(f"the image, {image.shape[-1]} px", image), *ways(small, image).items()]
    side, line = image.shape[-1], 18
    canvas = Image.new("RGB", (3 * side, 3 * (side + line)), "white")
    pen = ImageDraw.Draw(canvas)
    for number, (name, pixels) in enumerate(tiles):
        x, y = number % 3 * side, number // 3 * (side + line)
        array = (pixels[0].permute(1, 2, 0) * 255).round().byte().numpy()
        canvas.paste(Image.fromarray(array), (x, y + line))
        pen.text((x + 4, y + 3), name, fill="black")
        print(name)
    canvas.save(target, quality=88)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FIGURE)
