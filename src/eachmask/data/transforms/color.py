"""Light, contrast, noise and focus: of microscope images, and of photographs (float, 0..1)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torchvision.transforms.v2 import functional as F

from eachmask.data.sample import Sample


@dataclass(frozen=True)
class MicroscopyColorJitter:
    """Random gamma, brightness, contrast, stain, blur and noise, each with a chance of its own.

    Works on (H, W, 3) float32 images in 0..1; masks are untouched.
    """

    gamma: float = 0.5
    """Largest absolute log of the exponent."""
    gain: float = 0.3
    """Largest relative change of contrast."""
    offset: float = 0.1
    """Largest shift of brightness."""
    stain: float = 0.15
    """Largest relative change of each color channel on its own (color images only)."""
    noise: float = 0.06
    """Largest standard deviation of added noise."""
    blur: float = 1.5
    """Largest sigma of defocus, px."""
    invert: float = 0.0
    """Chance of swapping dark and bright (gray images only)."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        image = np.clip(sample.image.astype(np.float32), 0, 1)
        gray = bool((image[..., 0] == image[..., 1]).all() and (image[..., 0] == image[..., 2]).all())
        if gray and rng.random() < self.invert:
            image = 1 - image
        if rng.random() < 0.8:
            image = image ** np.float32(np.exp(rng.uniform(-self.gamma, self.gamma)))
        if rng.random() < 0.8:
            gain = np.float32(1 + rng.uniform(-self.gain, self.gain))
            image = image * gain + np.float32(rng.uniform(-self.offset, self.offset))
        if not gray and rng.random() < 0.8:
            image = image * (1 + rng.uniform(-self.stain, self.stain, 3).astype(np.float32))
        if rng.random() < 0.25:
            image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.3, self.blur))).astype(np.float32, copy=False)
        if rng.random() < 0.4:
            sigma = rng.uniform(0, self.noise)
            shape = (*image.shape[:2], 1) if gray else image.shape
            image = image + rng.normal(0, sigma, shape).astype(np.float32)
        return replace(sample, image=np.ascontiguousarray(np.clip(image, 0, 1)))


@dataclass(frozen=True)
class PhotoLight:
    """Brightness, contrast, saturation, hue, and now and then gray, as torchvision's v2 transforms have them.

    Works on (H, W, 3) float32 images in 0..1; masks are untouched.
    """

    brightness: float = 0.3
    """Largest relative change."""
    contrast: float = 0.3
    saturation: float = 0.3
    hue: float = 0.03
    """Largest turn, as a share of the color circle."""
    gray: float = 0.05
    """Chance of losing all color."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Draw one light."""
        image = torch.from_numpy(np.clip(sample.image.astype(np.float32), 0, 1)).permute(2, 0, 1)
        for change, most in (
            (F.adjust_brightness, self.brightness),
            (F.adjust_contrast, self.contrast),
            (F.adjust_saturation, self.saturation),
        ):
            if most and rng.random() < 0.8:
                image = change(image, float(1 + rng.uniform(-most, most)))
        if self.hue and rng.random() < 0.5:
            image = F.adjust_hue(image, float(rng.uniform(-self.hue, self.hue)))
        if rng.random() < self.gray:
            image = F.rgb_to_grayscale(image, num_output_channels=3)
        return replace(sample, image=np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
