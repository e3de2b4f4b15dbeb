"""Constants of measures as their makers publish them: with others the same numbers have another meaning."""

from __future__ import annotations

import numpy as np

from eachmask.metrics import (
    average_precision,
    boundary_ap,
    boundary_f,
    clicks,
    coco_matches,
    davis,
    matching,
    mattes,
    tracks,
)


def test_of_coco_and_of_boundary_iou() -> None:
    """Lin et al. 2014 and pycocotools; Cheng et al. 2021."""
    assert np.allclose(average_precision.RECALLS, np.arange(101) / 100)
    assert np.allclose(coco_matches.IOUS, np.arange(50, 100, 5) / 100)
    assert coco_matches.AREAS == ((0, 1e10), (0, 1024), (1024, 9216), (9216, 1e10))
    assert boundary_ap.DILATION == 0.02


def test_of_matching() -> None:
    """Schmidt et al. 2018, table 1."""
    assert matching.THRESHOLDS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)


def test_of_outlines() -> None:
    """Csurka et al. 2013, of the image's diagonal; DAVIS 2017's code."""
    assert (boundary_f.TOLERANCE, davis.TOLERANCE) == (0.0075, 0.008)
    assert (davis.MAX_PROPOSALS, davis.VOID) == (20, 255)


def test_of_clicks() -> None:
    """Sofiiuk et al. 2022: NoC@80, 85 and 90 of at most 20."""
    assert (clicks.MAX_CLICKS, clicks.THRESHOLDS) == (20, (0.8, 0.85, 0.9))


def test_of_mattes_and_tracks() -> None:
    """Rhemann et al. 2009, the gradient; Luiten et al. 2021, HOTA; Voigtlaender et al. 2019, MOTSA."""
    assert mattes.SIGMA == 1.4
    assert np.allclose(tracks.ALPHAS, np.arange(5, 100, 5) / 100) and tracks.MIN_IOU == 0.5
