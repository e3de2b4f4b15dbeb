"""Nested settings: what changes, what is refused, and with which words."""

from __future__ import annotations

import pytest
import torch

from eachmask import models
from eachmask.models.config import changed, merged
from eachmask.models.detection.conventions import MMDET
from eachmask.models.instance.mask_rcnn import Config, MaskHeadConfig
from eachmask.structures import UserError


def test_a_part_changes_and_the_rest_of_it_stays():
    config = changed(Config(), {"box_head": {"width": 256}, "roi": {"pooling": "pool"}, "max_detections": 7})
    assert config.box_head.width == 256 and config.box_head.layers == 2
    assert config.roi.pooling == "pool" and config.roi.levels == 4 and config.max_detections == 7
    assert Config().box_head.width == 1024


def test_whole_parts_and_json_are_taken():
    config = changed(Config(), {"conventions": MMDET, "mask_head": MaskHeadConfig(width=8), "score_threshold": 0})
    assert config.conventions is MMDET and config.mask_head.width == 8
    assert isinstance(config.score_threshold, float)
    assert changed(Config(), {"rpn": {"anchor_sizes": [8, 16]}}).rpn.anchor_sizes == (8, 16)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"box_width": 256}, "box_head.width"),
        ({"rpn_batch": 32}, "rpn.batch_size"),
        ({"box_head": {"witdh": 256}}, "box_head.width"),
        ({"width": 128}, "box_head.width or mask_head.width"),
        ({"roi": {"pooling": "alin"}}, "did you mean 'align'"),
        ({"roi": {"levels": "four"}}, "roi.levels cannot be 'four': it is a whole number"),
        ({"roi": {"levels": True}}, "roi.levels cannot be True"),
        ({"box_head": 256}, "a mapping of roi_size, convs"),
        ({"rpn": {"anchor_sizes": 32}}, "it is a list"),
        ({"box_head": {"weights": [1.0, 2.0]}}, "it has 4 values"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_was_meant(changes, words):
    with pytest.raises(UserError) as error:
        models.mask_rcnn_lite0_fpn(num_classes=2, **changes)
    assert words in str(error.value)


def test_settings_of_two_are_merged_part_by_part():
    assert merged({"roi": {"levels": 3}, "a": 1}, {"roi": {"jitter": 0.1}, "a": 2}) == {
        "roi": {"levels": 3, "jitter": 0.1},
        "a": 2,
    }


def test_a_variant_is_built_of_its_settings():
    with torch.device("meta"):
        model = models.mask_rcnn_r50_fpn(num_classes=3, box_head={"width": 256}, mask_head={"convs": 2})
    assert model.box_head.out_features == 256 and len(model.mask_head.convs) == 2
