"""Errors of mattes (Rhemann et al., "A Perceptually Motivated Online Benchmark for Image Matting", CVPR 2009)."""

from __future__ import annotations

from collections.abc import Sequence

from eachmask.structures import Matte


def matte_errors(predictions: Sequence[Matte], targets: Sequence[Matte]) -> dict[str, float]:
    """Means over images.

    Returns:
        ``sad``: sum of absolute differences, in thousands; ``mad`` and ``mse``: mean absolute and mean squared
        difference of a pixel, 0..1.

    Raises:
        ValueError: the two lists differ in length, or a pair in size.
    """
    if len(predictions) != len(targets):
        raise ValueError(f"{len(predictions)} predictions for {len(targets)} images")
    sums = {"sad": 0.0, "mad": 0.0, "mse": 0.0}
    for found, target in zip(predictions, targets, strict=True):
        if found.image_size != target.image_size:
            raise ValueError(f"a matte on {found.image_size} for an image of {target.image_size}")
        difference = (found.alpha.double() - target.alpha.double()).abs()
        sums["sad"] += float(difference.sum()) / 1000
        sums["mad"] += float(difference.mean())
        sums["mse"] += float(difference.square().mean())
    return {name: value / max(len(targets), 1) for name, value in sums.items()}
