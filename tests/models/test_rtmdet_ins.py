"""RTMDet-Ins against the paper's formulas and sizes, and against the layout of MMDetection's checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from eachmask import models
from eachmask.backbones.fuse import optimize_for_inference
from eachmask.models.instance.rtmdet_ins import dynamic_top, rtmdet_ins_nano
from eachmask.ops.dynamic import Places, apply_networks
from eachmask.structures import RLE, DecodeOptions, ImageBatch, Instances, UserError
from eachmask.weights.from_mmdet.rtmdet import convert
from eachmask.weights.renaming import fill

SIZES = {"tiny": (0.167, 0.375, 1, 5.6), "s": (0.33, 0.5, 1, 10.18), "m": (0.67, 0.75, 2, 27.58),
         "l": (1.0, 1.0, 3, 57.37), "x": (1.33, 1.25, 4, 102.7)}  # fmt: skip
"""Depth and width factors, blocks of the neck, and the millions of parameters that the authors' table gives."""


def official(deepen: float, widen: float, neck_blocks: int, num_classes: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of MMDetection's state dict."""

    def norm(name: str, c: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield from ((f"{name}.{part}", (c,)) for part in ("weight", "bias", "running_mean", "running_var"))
        yield f"{name}.num_batches_tracked", ()

    def module(name: str, a: int, b: int, kernel: int, groups: int = 1) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.conv.weight", (b, a // groups, kernel, kernel)
        yield from norm(f"{name}.bn", b)

    def csp(name: str, a: int, b: int, blocks: int, attention: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield from module(f"{name}.main_conv", a, b // 2, 1)
        yield from module(f"{name}.short_conv", a, b // 2, 1)
        yield from module(f"{name}.final_conv", b // 2 * 2, b, 1)
        for i in range(blocks):
            yield from module(f"{name}.blocks.{i}.conv1", b // 2, b // 2, 3)
            yield from module(f"{name}.blocks.{i}.conv2.depthwise_conv", b // 2, b // 2, 5, groups=b // 2)
            yield from module(f"{name}.blocks.{i}.conv2.pointwise_conv", b // 2, b // 2, 1)
        if attention:
            yield f"{name}.attention.fc.weight", (b // 2 * 2, b // 2 * 2, 1, 1)
            yield f"{name}.attention.fc.bias", (b // 2 * 2,)

    w = [int(c * widen) for c in (64, 128, 256, 512, 1024)]
    half = int(64 * widen // 2)
    for i, (a, b) in enumerate(((3, half), (half, half), (half, w[0]))):
        yield from module(f"backbone.stem.{i}", a, b, 3)
    for i, blocks in enumerate((3, 6, 6, 3)):
        yield from module(f"backbone.stage{i + 1}.0", w[i], w[i + 1], 3)
        if i == 3:
            yield from module("backbone.stage4.1.conv1", w[4], w[4] // 2, 1)
            yield from module("backbone.stage4.1.conv2", w[4] // 2 * 4, w[4], 1)
        yield from csp(f"backbone.stage{i + 1}.{2 if i == 3 else 1}", w[i + 1], w[i + 1],
                       max(round(blocks * deepen), 1), True)  # fmt: skip
    w, out = w[2:], int(256 * widen)
    for i in (0, 1):
        yield from module(f"neck.reduce_layers.{i}", w[2 - i], w[1 - i], 1)
        yield from csp(f"neck.top_down_blocks.{i}", 2 * w[1 - i], w[1 - i], neck_blocks, False)
        yield from module(f"neck.downsamples.{i}", w[i], w[i], 3)
        yield from csp(f"neck.bottom_up_blocks.{i}", 2 * w[i], w[i + 1], neck_blocks, False)
    for i in range(3):
        yield from module(f"neck.out_convs.{i}", w[i], out, 3)
        for j in range(2):
            for branch in ("cls", "reg", "kernel"):
                yield from module(f"bbox_head.{branch}_convs.{i}.{j}", out, out, 3)
        for branch, channels in (("cls", num_classes), ("reg", 4), ("kernel", 169)):
            yield f"bbox_head.rtm_{branch}.{i}.weight", (channels, out, 1, 1)
            yield f"bbox_head.rtm_{branch}.{i}.bias", (channels,)
    for name, a, b in (("fusion_conv", 3 * out, out), ("projection", out, 8)):
        yield f"bbox_head.mask_head.{name}.weight", (b, a, 1, 1)
        yield f"bbox_head.mask_head.{name}.bias", (b,)
    for i in range(4):
        yield from module(f"bbox_head.mask_head.stacked_convs.{i}", out, out, 3)


@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_the_published_ones(size):
    with torch.device("meta"):
        model = models.variant(f"rtmdet_ins_{size}")()
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(SIZES[size][3], abs=0.05)


@pytest.mark.parametrize("size", SIZES)
def test_official_layout_fills_the_model(size):
    with torch.device("meta"):
        model = models.variant(f"rtmdet_ins_{size}")(num_classes=5)
    own = model.state_dict()
    state = {name: torch.zeros(()).expand(shape) for name, shape in official(*SIZES[size][:3], 5)}
    converted = convert(state)
    assert set(converted) == set(own)
    assert all(converted[name].shape == own[name].shape for name in own)


def test_official_names_reach_the_right_places():
    state = {name: torch.randn(shape) for name, shape in official(*SIZES["tiny"][:3], 3)}
    for name in [name for name in state if "cls_convs" in name]:
        first = name.replace(".1.", ".0.", 1).replace(".2.", ".0.", 1) if name.endswith("conv.weight") else name
        state[name] = state[first] if first in state else state[name]
        state[name.replace("cls_convs", "reg_convs")] = state[name]
    model = models.variant("rtmdet_ins_tiny")(num_classes=3)
    fill(model, convert(state))
    backbone = model.backbone.backbone
    assert torch.equal(backbone.stages[3][1].expand.conv.weight, state["backbone.stage4.1.conv2.conv.weight"])
    assert torch.equal(backbone.stages[1][1].blocks[0].depthwise.bn.bias,
                       state["backbone.stage2.1.blocks.0.conv2.depthwise_conv.bn.bias"])  # fmt: skip
    assert torch.equal(model.heads.tower.norms[2][1].weight, state["bbox_head.cls_convs.2.1.bn.weight"])
    state["bbox_head.reg_convs.0.0.conv.weight"] = state["bbox_head.reg_convs.0.0.conv.weight"] + 1
    with pytest.raises(UserError, match="differs from the class branch"):
        convert(state)


def test_cost_of_the_assignment_is_the_papers():
    torch.manual_seed(0)
    model = rtmdet_ins_nano(num_classes=4)
    logits, iou, labels = torch.randn(6, 4), torch.rand(6, 2), torch.tensor([3, 1])
    found = model.cost(logits[:, labels], iou, logits)
    for place in range(6):
        for n, label in enumerate(labels):
            soft = torch.zeros(4)
            soft[label] = iou[place, n]
            entropy = F.binary_cross_entropy_with_logits(logits[place], soft, reduction="none")
            classes = (entropy * (soft - logits[place].sigmoid()) ** 2).sum()
            assert float(found[place, n]) == pytest.approx(float(classes - 3 * torch.log(iou[place, n])), rel=1e-4)


def test_dynamic_top():
    iou = torch.tensor([[0.9, 0.0], [0.8, 0.3], [0.6, 0.2], [0.1, 0.1]])  # sums 2.4 -> 2 places and 0.6 -> 1 place
    cost = torch.tensor([[1.0, 9.0], [2.0, 1.0], [3.0, 5.0], [4.0, 4.0]])
    chosen = dynamic_top(cost, iou, topk=13)
    # Both want the second place: it goes to the object that it costs least.
    assert chosen.tolist() == [[True, False], [False, True], [False, False], [False, False]]
    assert dynamic_top(cost, iou, topk=1).sum() == 2


def test_an_object_that_loses_all_its_places_takes_the_cheapest_left():
    iou = torch.tensor([[0.9, 0.4], [0.8, 0.3], [0.1, 0.2], [0.0, 0.1]])  # 1 place each
    cost = torch.tensor([[1.0, 2.0], [2.0, 3.0], [9.0, 5.0], [9.0, 4.0]])
    assert dynamic_top(cost, iou, topk=2).tolist() == [[True, False], [False, True], [False, False], [False, False]]
    both = torch.tensor([[1.0, 2.0]])
    assert dynamic_top(both, iou[:1], topk=2).tolist() == [[True, False]]  # there is none left


def scene() -> tuple[ImageBatch, Instances]:
    label_map = torch.zeros(64, 96, dtype=torch.int32)
    label_map[8:40, 10:50], label_map[30:60, 60:90] = 1, 2
    masks = RLE.from_label_map(label_map.numpy())
    boxes = torch.from_numpy(masks.boxes())
    torch.manual_seed(0)
    batch = ImageBatch.from_tensors([torch.randn(3, 64, 96)])
    return batch, Instances(image_size=(64, 96), boxes=boxes, masks=masks, labels=torch.tensor([1, 0]))


def test_losses_are_the_papers():
    """Written out place by place from section 3.3."""
    batch, target = scene()
    model = rtmdet_ins_nano(num_classes=2).eval()
    for head in model.heads.distances:
        torch.nn.init.constant_(head.bias, 3.0)
    with torch.no_grad():
        raw = model(batch)
        found = model.losses(raw, [target])
    points, strides = model.places(raw)
    logits = torch.cat([level.flatten(2)[0].T for level in raw.classes])
    distances = torch.cat([level.flatten(2)[0].T for level in raw.distances])
    boxes = torch.cat([points - distances[:, :2], points + distances[:, 2:]], dim=1)
    assigned = model.assign(points, strides, logits, boxes, target)
    assert len(assigned.positive) >= 2 and set(assigned.objects.tolist()) == {0, 1}
    quality = torch.zeros_like(logits)
    quality[assigned.positive, assigned.labels] = assigned.iou
    entropy = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    weight = max(float(assigned.iou.sum()), 1.0)
    classes = (entropy * (quality - logits.sigmoid()).abs() ** 2).sum() / weight
    assert float(found["class"]) == pytest.approx(float(classes), rel=1e-4)
    dice = 0.0
    kernels = torch.cat([level.flatten(2)[0].T for level in raw.kernels])
    for row, place in enumerate(assigned.positive.tolist()):
        places = Places(points[[place]], 8 * strides[[place]], 8, 0.0)
        logits = apply_networks(raw.mask_features[0], kernels[[place]], places)[None]
        p = F.interpolate(logits, scale_factor=2, mode="bilinear", align_corners=False)[0, 0].sigmoid()
        t = torch.from_numpy(target.masks.decode()[int(assigned.objects[row])])[2::4, 2::4].float()
        dice += float(1 - 2 * (p * t).sum() / ((p * p).sum() + (t * t).sum() + 5e-6))
    assert float(found["mask"]) == pytest.approx(2 * dice / len(assigned.positive), rel=1e-4)


def test_places_in_crowds_are_ignored():
    batch, target = scene()
    model = rtmdet_ins_nano(num_classes=2).eval()
    with torch.no_grad():
        raw = model(batch)
    points, strides = model.places(raw)
    crowd = replace(target, crowd=torch.tensor([True, False]))
    flat = [torch.cat([x.flatten(2)[0].T for x in levels]) for levels in (raw.classes, raw.distances)]
    assigned = model.assign(points, strides, flat[0], flat[1], crowd)
    assert set(assigned.objects.tolist()) == {1}
    x1, y1, x2, y2 = target.boxes[0]
    inside = (points[:, 0] > x1) & (points[:, 0] < x2) & (points[:, 1] > y1) & (points[:, 1] < y2)
    assert torch.equal(assigned.ignored, inside)


def test_masks_are_resized_logits():
    batch, _ = scene()
    model = rtmdet_ins_nano(num_classes=2).train()  # statistics of the batch, so that no two places score the same
    for kernels in model.heads.kernels:
        torch.nn.init.normal_(kernels.weight, std=0.3)
    with torch.no_grad():
        raw = model(batch)
        (found,) = model.decode(raw, DecodeOptions(score_threshold=0.005, max_detections=8))
        assert len(found) == 8
        kernels, points, reach = [], [], []
        for i in range(8):  # which place each came from: the one with this score
            for level, stride in enumerate((8, 16, 32)):
                at = torch.nonzero(raw.classes[level][0].sigmoid() == found.scores[i])
                for label, row, column in at.tolist():
                    if label == int(found.labels[i]):
                        kernels.append(raw.kernels[level][0, :, row, column])
                        points.append([column * stride, row * stride])
                        reach.append(8.0 * stride)
        places = Places(torch.tensor(points, dtype=torch.float32), torch.tensor(reach), 8, 0.0)
        logits = apply_networks(raw.mask_features[0], torch.stack(kernels), places)
        expected = F.interpolate(logits[None], scale_factor=8, mode="bilinear")[0] > 0
    assert (torch.from_numpy(found.masks.to_rle().decode()) != expected).float().mean() < 1e-3


def test_networks_of_found_objects_are_those_of_all_places():
    """An optimized network computes them around the places that were found alone, borders and corners included."""
    torch.manual_seed(0)
    batch, _ = scene()
    model = rtmdet_ins_nano(num_classes=2)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.3, 1.2)
            torch.nn.init.uniform_(module.bias, -0.3, 0.3)
        elif isinstance(module, torch.nn.Conv2d):
            torch.nn.init.normal_(module.weight, std=(2 / module.weight[0].numel()) ** 0.5)
    fast = optimize_for_inference(model.eval())
    with torch.inference_mode():
        plain, lazy = model(batch), fast(batch)
        every = torch.arange(sum(level[0, 0].numel() for level in plain.classes)).flip(0)
        expected = model.heads.kernels_at(plain.kernels, 0, every)
        torch.testing.assert_close(fast.heads.kernels_at(lazy.kernels, 0, every), expected, rtol=1e-3, atol=1e-3)
        assert len(fast.heads.kernels_at(lazy.kernels, 0, every[:0])) == 0
        for ours, theirs in zip(lazy.classes, plain.classes, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
