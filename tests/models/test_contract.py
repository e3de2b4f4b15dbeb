"""What every model promises, whatever is inside: the three verbs on awkward input.

A new model joins with one line in ``CASES``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from models import test_prompted
from models.siblings import without_numbers
from one_step import check_learns_in_bf16, learn
from torch import nn

from eachmask import models
from eachmask.models.config import changed
from eachmask.models.protocol import Model, Network, Promptable
from eachmask.structures import RLE, DecodeOptions, ImageBatch, Instances
from eachmask.structures import boxes as box_ops
from eachmask.tasks.boxes import BOXES
from eachmask.tasks.instances import INSTANCES
from eachmask.tasks.keypoints import KEYPOINTS
from eachmask.tasks.task import Task

FEW = {
    "rpn": {"pre_nms_top_n": 60, "post_nms_top_n": 40, "pre_nms_top_n_training": 60, "post_nms_top_n_training": 40},
    "roi": {"batch_size": 24},
}
"""Two-stage models look at few proposals here: the promises are the same and the tests quick."""


EVERY_FLOW = {"logit_threshold": -5.0, "max_flow_error": 0.0, "max_share": 1.0, "min_area": 1, "min_hits": 0}
"""Of networks that have learnt nothing, no two pixels lead to one place, and none of them may be dropped for that."""
SMALL_ENCODER = {"backbone": "mobilenetv3_small_050", "decoder_channels": [32, 32, 24, 16]}
NARROW = {
    "prompts": {"width": 32, "mask_width": 8},
    "decoder": {"width": 32, "heads": 2, "mlp": 64, "iou_width": 32},
}
SMALL_SAM = NARROW | {
    "encoder": {"image_size": 128, "patch": 16, "width": 32, "depth": 2, "heads": 2, "window": 3, "everywhere": [1]}
}
"""The transformers of SAM and its kin are narrow here and their images small."""


@dataclass(frozen=True)
class Case:
    """A variant small enough for a test."""

    variant: str
    num_classes: int = 3
    config: dict[str, Any] = field(default_factory=dict)
    num_keypoints: int = 0
    masks: bool = True
    score: float = 0.01
    """Of the threshold under which an untrained network finds something."""
    learning_rate: float = 1e-3
    """With which it memorizes; 0 where a sibling of the same code does that for it."""

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        return models.variant(self.variant)(num_classes=self.num_classes, **self.config).eval()


CASES = [
    Case("faster_rcnn_lite0_fpn", config=FEW, masks=False),
    Case("faster_rcnn_r50_fpn", config=FEW, masks=False, learning_rate=0),
    Case(
        "mask_rcnn_lite0_p3",
        config=FEW
        | {"box_head": {"class_agnostic": True}, "mask_head": {"class_agnostic": True}, "class_agnostic_nms": True},
    ),
    Case("mask_rcnn_lite0_fpn", config=FEW),
    Case("mask_rcnn_r18_fpn", config=FEW, learning_rate=3e-4),
    Case("mask_rcnn_r50_fpn", config=FEW, learning_rate=0),
    Case(
        "keypoint_rcnn_lite0_fpn",
        1,
        FEW | {"keypoint_head": {"num_keypoints": 4}},
        num_keypoints=4,
        masks=False,
        learning_rate=3e-4,
    ),
    Case("boundaryformer_lite0_fpn", config=FEW | {"roi": {"batch_size": 48, "positive_fraction": 0.5}}),
    Case("pointrend_lite0_fpn", config=FEW),
    Case("implicit_pointrend_lite0_fpn", config=FEW),
    Case("rtmdet_ins_nano", score=0.005),
    Case("centermask_lite0_fpn", score=0.01),
    Case("condinst_lite0_fpn", score=0.005),
    Case("blendmask_lite0_fpn", score=0.01),
    Case("fcos_lite0_fpn", masks=False, score=0.004),
    Case("cascade_rcnn_lite0_fpn", config=FEW, masks=False, learning_rate=3e-4),
    Case("cascade_mask_rcnn_lite0_fpn", config=FEW, learning_rate=3e-4),
    Case("mask_scoring_rcnn_lite0_fpn", config=FEW),
    Case("panet_lite0_fpn", config=FEW),
    Case("mask_rcnn_lite0_pafpn", config=FEW, learning_rate=0),
    Case("faster_rcnn_r18_c4", config=FEW, masks=False, learning_rate=3e-4),
    Case("retinanet_lite0_fpn", masks=False, score=0.005),
    Case("polarmask_lite0_fpn", score=0.005),
    Case("solo_lite0", score=0.001),
    Case("decoupled_solo_lite0", score=0.001),
    Case("solov2_lite0", score=0.001),
    Case("tensormask_lite0_fpn", score=0.005),
    # In 7 x 7 cells two objects of the images to memorize would have one cell between them.
    Case("yolo_v1_lite0", config={"grid": 9}, masks=False, learning_rate=3e-4),
    Case("panoptic_deeplab_lite0", 1, {"heat_threshold": 0.01}),
    Case("yolact_lite0"),
    Case("fastsam_lite0", 1),
    Case("sam_vit_b", 1, SMALL_SAM, score=0.0),
    Case(
        "mobile_sam",
        1,
        {"encoder": {"widths": [16, 16, 32, 32], "depths": [1, 1, 1, 1], "heads": [1, 1, 2, 2]}} | NARROW,
        score=0.0,
        learning_rate=0,
    ),
    Case(
        "efficient_sam_ti",
        1,
        {"encoder": {"pretrained_size": 64, "width": 32, "depth": 2, "heads": 2}} | NARROW,
        score=0.0,
        learning_rate=0,
    ),
    Case(
        "sam2_hiera_t",
        1,
        {"encoder": {"width": 16, "depths": [1, 1, 2, 1], "everywhere": [3]}} | NARROW,
        score=0.0,
        learning_rate=0,
    ),
    Case("yolact_plus_r18", learning_rate=3e-4),
    Case(
        "sds_lite0", config={"sampling": {"batch_size": 16}, "search": {"proposals": 24}}
    ),  # with 16, one object to memorize has none
    Case("cfm_lite0", config={"sampling": {"batch_size": 16}}),
    Case("hypercolumns_lite0", config={"sampling": {"batch_size": 16}}),
    Case("mnc_lite0", config=FEW),
    Case("fcis_lite0", config=FEW),
    Case("rcnn_lite0", config={"sampling": {"batch_size": 16}, "search": {"proposals": 24}}, masks=False),
    Case("fast_rcnn_lite0", config={"sampling": {"batch_size": 24}}, masks=False),
    Case("discriminative_lite0"),
    Case("deep_watershed_lite0", config={"min_area": 1}),
    Case("instance_cut_lite0", config={"min_area": 1}),
    Case("pfn_lite0", config={"max_points": 200}),
    Case("coverage_tree_lite0", config={"max_regions": 100, "min_area": 1}),
    Case("stardist_lite0", learning_rate=3e-3),
    Case("flows_lite0", 1, EVERY_FLOW),
    Case("spatial_embedding_lite0", config={"seed_threshold": 0.1}),
    Case("spatial_embedding_erfnet", config={"seed_threshold": 0.01}, learning_rate=0),
    Case("recurrent_instance_lite0", 1, SMALL_ENCODER, learning_rate=2e-3),
    Case("recurrent_attention_lite0", 1, SMALL_ENCODER),
    Case("actor_critic_lite0", 1, SMALL_ENCODER),
    Case("flows_cpnet", 1, EVERY_FLOW | {"channels": (3, 8, 16, 32)}, learning_rate=3e-3),
]

SIBLINGS = {
    "yolo_v1_r18": "yolo_v1_lite0",
    "pfn_kmeans_lite0": "pfn_lite0",
    "discriminative_greedy_lite0": "discriminative_lite0",
    "tensormask_r50_fpn": "tensormask_lite0_fpn",
    "polarmask_r50_fpn": "polarmask_lite0_fpn",
    "sds_r50": "sds_lite0",
    "cfm_r50_fpn": "cfm_lite0",
    "hypercolumns_r50_fpn": "hypercolumns_lite0",
    "mnc_r50_fpn": "mnc_lite0",
    "fcis_r50_fpn": "fcis_lite0",
    "rcnn_r50": "rcnn_lite0",
    "rcnn_r18": "rcnn_lite0",
    "fast_rcnn_r50_fpn": "fast_rcnn_lite0",
    "fast_rcnn_r18_fpn": "fast_rcnn_lite0",
    "retinanet_r50_fpn": "retinanet_lite0_fpn",
    "retinanet_r50_fpn_torchvision": "retinanet_lite0_fpn",
    "fcos_r50_fpn": "fcos_lite0_fpn",
    "faster_rcnn_r50_fpn_v2": "faster_rcnn_lite0_fpn",
    "keypoint_rcnn_r50_fpn": "keypoint_rcnn_lite0_fpn",
    "keypoint_rcnn_lite0_p3": "keypoint_rcnn_lite0_fpn",
    "mask_rcnn_swin_t_fpn": "mask_rcnn_lite0_fpn",
    "solo_r50_fpn": "solo_lite0",
    "decoupled_solo_r50_fpn": "decoupled_solo_lite0",
    "decoupled_solo_light_r50_fpn": "decoupled_solo_lite0",
    "solov2_r50_fpn": "solov2_lite0",
    "solov2_r101_fpn": "solov2_lite0",
    "solov2_r101_dcn_fpn": "solov2_lite0",
    "solov2_light_r18_fpn": "solov2_lite0",
    "solov2_light_r34_fpn": "solov2_lite0",
    "solov2_light_r50_fpn": "solov2_lite0",
    "mask_rcnn_r50_fpn_v2": "mask_rcnn_lite0_fpn",
    "yolact_r50": "yolact_lite0",
    "yolact_r101": "yolact_lite0",
    "fastsam_r50": "fastsam_lite0",
    "efficient_sam_s": "efficient_sam_ti",
    "cellpose_cyto3": "flows_cpnet",
    "sam2_hiera_s": "sam2_hiera_t",
    "sam2_hiera_b_plus": "sam2_hiera_t",
    "sam2_hiera_l": "sam2_hiera_t",
    "sam_vit_l": "sam_vit_b",
    "sam_vit_h": "sam_vit_b",
    "yolact_plus_r50": "yolact_plus_r18",
    "yolact_plus_r101": "yolact_plus_r18",
    "faster_rcnn_r50_c4": "faster_rcnn_r18_c4",
    "panet_r50_fpn": "panet_lite0_fpn",
    "faster_rcnn_r50_fpn_mmdet": "faster_rcnn_lite0_fpn",
    "faster_rcnn_timm_fpn": "faster_rcnn_lite0_fpn",
    "mask_rcnn_r34_fpn": "mask_rcnn_lite0_fpn",
    "mask_rcnn_r101_fpn": "mask_rcnn_lite0_fpn",
    "mask_rcnn_x101_fpn": "mask_rcnn_lite0_fpn",
    "mask_rcnn_swin_s_fpn": "mask_rcnn_lite0_fpn",
    "mask_rcnn_swin_b_fpn": "mask_rcnn_lite0_fpn",
    "mask_rcnn_swin_v2_t_fpn": "mask_rcnn_lite0_fpn",
    "mask_rcnn_swin_v2_s_fpn": "mask_rcnn_lite0_fpn",
    "mask_rcnn_swin_v2_b_fpn": "mask_rcnn_lite0_fpn",
    "mask_rcnn_swin_t_fpn_mmdet": "mask_rcnn_lite0_fpn",
    "mask_rcnn_swin_s_fpn_mmdet": "mask_rcnn_lite0_fpn",
    "cascade_mask_rcnn_swin_t_fpn": "cascade_mask_rcnn_lite0_fpn",
    "cascade_mask_rcnn_swin_s_fpn": "cascade_mask_rcnn_lite0_fpn",
    "cascade_mask_rcnn_swin_b_fpn": "cascade_mask_rcnn_lite0_fpn",
    "cascade_mask_rcnn_swin_v2_t_fpn": "cascade_mask_rcnn_lite0_fpn",
    "mask_rcnn_timm_fpn": "mask_rcnn_lite0_fpn",
    "cascade_mask_rcnn_lite0_p3": "cascade_mask_rcnn_lite0_fpn",
    "cascade_mask_rcnn_r101_fpn": "cascade_mask_rcnn_lite0_fpn",
    "mask_scoring_rcnn_r50_caffe_fpn": "mask_scoring_rcnn_lite0_fpn",
    "mask_scoring_rcnn_r101_caffe_fpn": "mask_scoring_rcnn_lite0_fpn",
    "mask_rcnn_r50_pafpn": "mask_rcnn_lite0_pafpn",
    "cascade_rcnn_r50_fpn": "cascade_rcnn_lite0_fpn",
    "cascade_mask_rcnn_r50_fpn_mmdet": "cascade_mask_rcnn_lite0_fpn",
    "cascade_mask_rcnn_r50_fpn_detectron2": "cascade_mask_rcnn_lite0_fpn",
    "mask_scoring_rcnn_r50_fpn": "mask_scoring_rcnn_lite0_fpn",
    "mask_rcnn_r50_fpn_mmdet": "mask_rcnn_lite0_fpn",
    "mask_rcnn_r50_fpn_detectron2": "mask_rcnn_lite0_fpn",
    "boundaryformer_r50_fpn": "boundaryformer_lite0_fpn",
    "pointrend_r50_fpn": "pointrend_lite0_fpn",
    "pointrend_r50_fpn_mmdet": "pointrend_lite0_fpn",
    "implicit_pointrend_r50_fpn": "implicit_pointrend_lite0_fpn",
    "blendmask_r50_fpn": "blendmask_lite0_fpn",
    "centermask_r50_fpn": "centermask_lite0_fpn",
    "centermask_v39_fpn": "centermask_lite0_fpn",
    "centermask_lite_v39_fpn": "centermask_lite0_fpn",
    "condinst_r50_fpn": "condinst_lite0_fpn",
    "condinst_r50_fpn_adelaidet": "condinst_lite0_fpn",
    "condinst_lite2_fpn": "condinst_lite0_fpn",
    "panoptic_deeplab_lite2": "panoptic_deeplab_lite0",
    **{f"rtmdet_ins_{size}": "rtmdet_ins_nano" for size in ("tiny", "s", "m", "l", "x")},
}
"""Large variants -> the small one of the same code that keeps the promises for them; they are only built here."""


@pytest.fixture(scope="module", params=CASES, ids=[case.variant for case in CASES])
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(scope="module")
def model(case: Case) -> nn.Module:
    """In eval mode; tests that change it copy it."""
    return case.build()


def test_every_variant_is_here():
    names = {case.variant for case in CASES}
    asked = {case.variant for case in test_prompted.CASES} | set(test_prompted.SIBLINGS)
    rooms = ("matting.", "semantic.", "panoptic.", "video.")  # see test_matting, test_semantic, test_panoptic, test_stm
    others = {name for name, module in models.VARIANTS.items() if module.startswith(rooms)}
    assert names | set(SIBLINGS) | asked | others == set(models.VARIANTS)
    assert not names & set(SIBLINGS) and not asked & (names | set(SIBLINGS))
    assert set(SIBLINGS.values()) <= names


@pytest.mark.parametrize("name", sorted(SIBLINGS))
def test_large_variants_are_built_of_the_same_code(name):
    num_classes = next(case.num_classes for case in CASES if case.variant == SIBLINGS[name])
    large, small = without_numbers(name, SIBLINGS[name], num_classes=num_classes)
    assert large.num_classes == num_classes
    assert {type(module) for module in large.children()} == {type(module) for module in small.children()}


def scene(case: Case, size: tuple[int, int], num: int = 3, seed: int = 0) -> tuple[torch.Tensor, Instances]:
    """An image (3, H, W) of ellipses, colored by class, and its targets."""
    rng = np.random.default_rng(seed)
    height, width = size
    ys, xs = np.mgrid[:height, :width] + 0.5
    image = rng.normal(0, 0.1, (3, height, width)).astype(np.float32)
    label_map = np.zeros(size, np.int32)
    labels = []
    for i in range(num):
        cy, cx = rng.uniform(0.2, 0.8, 2) * size
        ry, rx = rng.uniform(0.1, 0.25, 2) * min(size)
        inside = ((ys - cy) / ry) ** 2 + ((xs - cx) / rx) ** 2 <= 1
        label_map[inside & (label_map == 0)] = i + 1
        labels.append(int(rng.integers(case.num_classes)))
        image[labels[-1] % 3, inside] += 1.5
    masks = RLE.from_label_map(label_map)
    boxes = torch.from_numpy(masks.boxes())
    points = torch.from_numpy(rng.random((len(masks), case.num_keypoints, 2), dtype=np.float32))
    points = boxes[:, None, :2] + points * (boxes[:, None, 2:] - boxes[:, None, :2])
    return torch.from_numpy(image), Instances(
        image_size=size,
        boxes=boxes,
        masks=masks,
        labels=torch.tensor(labels, dtype=torch.int64)[: len(masks)],
        keypoints=torch.cat([points, torch.full_like(points[..., :1], 2)], dim=2),
    )


def scenes(case: Case, *sizes: tuple[int, int], num: int = 3) -> tuple[ImageBatch, list[Instances]]:
    pairs = [scene(case, size, num, seed) for seed, size in enumerate(sizes)]
    return ImageBatch.from_tensors([image for image, _ in pairs]), [target for _, target in pairs]


def losses_of(model: nn.Module, batch: ImageBatch, targets: list[Instances]) -> dict[str, torch.Tensor]:
    """Losses with the same draw of samples every time."""
    torch.manual_seed(1)
    return model.losses(model(batch), targets)


@torch.inference_mode()
def predict(model: nn.Module, batch: ImageBatch, **options: Any) -> list[Instances]:
    return model.decode(model(batch), DecodeOptions(**options))


def check_valid(found: Instances, size: tuple[int, int], case: Case) -> None:
    """Everything a user may rely on."""
    height, width = size
    assert found.image_size == size
    x1, y1, x2, y2 = found.boxes.unbind(1)
    assert ((x1 >= 0) & (y1 >= 0) & (x1 <= x2) & (y1 <= y2) & (x2 <= width) & (y2 <= height)).all()
    assert found.boxes.dtype == found.scores.dtype == torch.float32 and found.labels.dtype == torch.int64
    assert ((found.scores >= 0) & (found.scores <= 1)).all()
    assert (found.scores.diff() <= 0).all(), "best first"
    assert ((found.labels >= 0) & (found.labels < case.num_classes)).all()
    if case.masks:
        assert len(found.masks) == len(found) and found.masks.size == size
        assert found.masks.area().max(initial=0) <= height * width
    if case.num_keypoints:
        assert found.keypoints.shape == (len(found), case.num_keypoints, 3)
        assert torch.isfinite(found.keypoints).all()
        assert ((found.keypoints[..., 2] >= 0) & (found.keypoints[..., 2] <= 1)).all(), "scores, not logits"


def test_has_a_config_and_a_number_of_classes(case, model):
    assert model.num_classes == case.num_classes
    changed_once_more = changed(model.config, case.config)
    assert changed_once_more == model.config
    with pytest.raises(AttributeError):
        model.config.num_classes = 2  # frozen


def test_obeys_the_protocol(case, model):
    assert isinstance(model, Model) and isinstance(model.task, Task) and model.needs <= {"masks", "keypoints"}
    written_once = type(model).decode is Network.decode
    assert written_once or isinstance(model, Promptable), "decode is select and pack, but for answers to prompts"
    assert model.max_classes is None or case.num_classes <= model.max_classes
    if case.num_keypoints:
        assert model.task is KEYPOINTS and model.needs == {"keypoints"}
    elif not case.masks:
        assert model.task is BOXES and not model.needs
    else:
        assert model.task is INSTANCES


@torch.inference_mode()
def test_what_is_selected_are_tensors(case, model):
    batch, _ = scenes(case, (64, 96))
    selected = model.select(model(batch, None), DecodeOptions(score_threshold=case.score))
    kinds = {type(leaf) for leaf in leaves(selected)}
    assert torch.Tensor in kinds and kinds <= {torch.Tensor, int, float, bool}


def leaves(value: Any) -> Iterator[Any]:
    """What a value is made of in the end."""
    if is_dataclass(value):
        yield from leaves([getattr(value, part.name) for part in fields(value)])
    elif isinstance(value, tuple | list):
        for part in value:
            yield from leaves(part)
    elif value is not None:
        yield value


def test_odd_sizes_in_one_batch(case, model):
    sizes = [(33, 65), (64, 47), (97, 31)]
    found = predict(model, scenes(case, *sizes)[0], score_threshold=case.score)
    assert sum(len(instances) for instances in found) > 0
    for instances, size in zip(found, sizes, strict=True):
        check_valid(instances, size, case)


def test_the_smallest_image(case, model):
    (found,) = predict(model, ImageBatch.from_tensors([torch.zeros(3, 1, 1)]), score_threshold=case.score)
    check_valid(found, (1, 1), case)


def test_options_are_obeyed(case, model):
    batch, _ = scenes(case, (64, 96))
    (all_of_them,) = predict(model, batch, score_threshold=case.score)
    middle = float(all_of_them.scores.median())
    (sure,) = predict(model, batch, score_threshold=middle)
    assert (sure.scores >= middle).all()
    (two,) = predict(model, batch, score_threshold=case.score, max_detections=2)
    assert torch.equal(two.scores, all_of_them.scores[:2]) and len(two) == min(2, len(all_of_them))
    (none,) = predict(model, batch, score_threshold=1.0)
    assert len(none) == 0
    check_valid(none, (64, 96), case)


def test_every_suppression_is_understood(case, model):
    batch, _ = scenes(case, (64, 96))
    with torch.inference_mode():
        raw = model(batch)
        usual, *found = (
            model.decode(raw, DecodeOptions(score_threshold=case.score, suppression=how))[0]
            for how in (None, "hard", "soft", "fast", "matrix")
        )
    for one in found:
        check_valid(one, (64, 96), case)
    own = [one for one in found if torch.equal(one.scores, usual.scores) and torch.equal(one.boxes, usual.boxes)]
    assert own, "the model's own way has a name"
    overlaps = int((box_ops.iou(found[1].boxes, found[1].boxes) > 0).sum()) > len(found[1])  # the second one is soft
    assert len(own) < len(found) or not model.suppresses or not overlaps, "and the others differ from it"


def test_the_score_that_is_reported_is_what_a_threshold_is_compared_with(case, model):
    """Bit for bit: a threshold that is itself a reported score divides the same list in two."""
    batch, _ = scenes(case, (64, 96))
    (every,) = predict(model, batch, score_threshold=case.score)
    for number in {0, len(every) // 3, len(every) // 2, len(every) - 1}:
        threshold = float(every.scores[number])
        (sure,) = predict(model, batch, score_threshold=threshold)
        above, least = (every.scores[above] for above in (every.scores > threshold, every.scores >= threshold))
        assert torch.equal(sure.scores, above) or torch.equal(sure.scores, least), (number, len(sure), len(above))


def test_bf16_predicts_and_learns(case, model):
    """Whatever comes out of the network in it, results are as in float32."""
    batch, targets = scenes(case, (64, 96))
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = predict(model, batch, score_threshold=case.score)
    check_valid(found, (64, 96), case)
    check_learns_in_bf16(model, batch, targets)


def test_same_result_twice(case, model):
    batch, _ = scenes(case, (50, 70))
    (first,), (second,) = (predict(model, batch, score_threshold=case.score) for _ in range(2))
    assert torch.equal(first.boxes, second.boxes) and torch.equal(first.scores, second.scores)
    if case.masks:
        assert np.array_equal(first.masks.to_rle().counts, second.masks.to_rle().counts)


def test_saved_weights_are_the_whole_model(case, model):
    torch.manual_seed(99)
    other = models.variant(case.variant)(num_classes=case.num_classes, **case.config).eval()
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    batch, _ = scenes(case, (50, 70))
    (first,), (second,) = (predict(m, batch, score_threshold=case.score) for m in (model, other))
    assert torch.equal(first.boxes, second.boxes) and torch.equal(first.scores, second.scores)


@pytest.mark.parametrize("what", ["objects", "nothing", "one of each", "crowd", "a single pixel", "a tiny image"])
def test_losses_are_finite_and_reach_every_parameter(case, model, what):
    model = copy.deepcopy(model)
    batch, targets = scenes(case, (64, 96), (80, 64))
    if what == "nothing":
        targets = [target[:0] for target in targets]
    elif what == "one of each":
        targets[0] = targets[0][:0]
    elif what == "crowd":
        targets = [replace(target, crowd=torch.ones(len(target), dtype=torch.bool)) for target in targets]
    elif what == "a single pixel":
        targets = [pixel(target) for target in targets]
    elif what == "a tiny image":  # as a strong jitter of scale makes them, in a batch that is as large as ever
        size = (5, 3)
        batch = replace(batch, sizes=(size, batch.sizes[1]))
        targets[0] = whole_image(targets[0][:1], size)
    losses = losses_of(model, batch, targets)
    assert all(value.ndim == 0 and torch.isfinite(value) for value in losses.values()), losses
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} has no part in the losses of a batch with {what}"
        assert torch.isfinite(parameter.grad).all(), name


def pixel(target: Instances) -> Instances:
    """The first object, shrunk to one pixel; and one that has nothing at all left."""
    bitmaps = np.zeros((2, *target.image_size), bool)
    bitmaps[0, 5, 7] = True
    masks = RLE.from_bitmaps(bitmaps)
    return replace(target[[0, 0]], masks=masks, boxes=torch.from_numpy(masks.boxes()))


def whole_image(target: Instances, size: tuple[int, int]) -> Instances:
    """One object that is all of an image of this size."""
    masks = RLE.from_bitmaps(np.ones((1, *size), bool))
    boxes = torch.from_numpy(masks.boxes())
    points = None if target.keypoints is None else torch.tensor([1.0, 1.0, 2.0]).expand_as(target.keypoints)
    return replace(target, image_size=size, masks=masks, boxes=boxes, keypoints=points)


def test_crowd_is_not_learnt(case, model):
    """What a crowd region is said to hold makes no difference, but that it is one does."""
    batch, (target,) = scenes(case, (64, 96))
    crowd = torch.tensor([True] + [False] * (len(target) - 1))
    relabeled = torch.cat([(target.labels[:1] + 1) % case.num_classes, target.labels[1:]])
    with torch.inference_mode():
        as_crowd, as_other = (
            losses_of(model, batch, [replace(target, crowd=crowd, labels=labels)])
            for labels in (target.labels, relabeled)
        )
        as_object = losses_of(model, batch, [target])
    assert all(float(as_crowd[name]) == float(as_other[name]) for name in as_crowd)
    assert any(float(as_crowd[name]) != float(as_object[name]) for name in as_crowd)


@pytest.mark.slow
def test_memorizes_a_few_images(case):
    if not case.learning_rate:
        pytest.skip("a sibling of the same code memorizes for it")
    model = case.build()
    batch, targets = scenes(case, (96, 128), (128, 96), (128, 128))
    optimizer = torch.optim.Adam(model.parameters(), lr=case.learning_rate)
    first, worst = None, 0.0
    for step in range(450):  # most need 150
        loss = learn(model, batch, targets, optimizer, step, clip=5.0)
        first = first or loss
        if step % 75 == 74:
            worst = least_overlap(case, predict(model.eval(), batch, score_threshold=0.5), targets)
            if worst > 0.5 and loss < 0.3 * first:
                return
    pytest.fail(f"an object's best IoU is {worst}, the loss {loss} of {first} at first")


def least_overlap(case: Case, found: list[Instances], targets: list[Instances]) -> float:
    """Of all objects, the smallest best IoU with something found that has their class.

    What is left of a hidden ellipse may be a sliver finer than the cells that masks are made of: those do not count.
    """
    least = 1.0
    for some, target in zip(found, targets, strict=True):
        iou = some.masks.iou(target.masks) if case.masks else box_ops.iou(some.boxes, target.boxes).numpy()
        same = (some.labels[:, None] == target.labels[None]).numpy()
        best = (iou * same).max(axis=0, initial=0.0)
        least = min(least, float(best[target.masks.area() >= 32].min()))
    return least
