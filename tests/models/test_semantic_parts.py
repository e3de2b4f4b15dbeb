"""What is special about single networks that label pixels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eachmask import cli, models
from eachmask.models.semantic.labeling import Raw
from eachmask.models.semantic.unet import input_side, mirrored
from eachmask.ops.pixel_losses import border_weights
from eachmask.structures import DecodeOptions, ImageBatch


def whole(tensor: torch.Tensor) -> ImageBatch:
    return ImageBatch(tensor, ((tensor.shape[2], tensor.shape[3]),) * len(tensor))


def test_an_unpadded_u_net_has_the_papers_sizes():
    assert input_side(388, 4) == (572, 388)
    model = models.unet(2, width=2).eval()
    image = torch.randn(1, 3, 388, 388)
    assert mirrored(whole(image), 4).shape[-2:] == (572, 572)
    with torch.no_grad():
        assert model(whole(image)).logits.shape == (1, 2, 388, 388)


def test_the_border_is_mirrored_about_the_valid_part():
    image = torch.arange(12.0).view(1, 1, 3, 4).expand(1, 3, 3, 4)
    padded = F.pad(image, (0, 28, 0, 29))
    alone = mirrored(ImageBatch(padded, ((3, 4),)), 1)
    (need, given), margin = input_side(32, 1), (input_side(32, 1)[0] - input_side(32, 1)[1]) // 2
    assert alone.shape[-1] == need and given >= 32
    assert torch.equal(alone[0, :, margin : margin + 3, margin : margin + 4], image[0])
    assert torch.equal(alone[0, 0, margin, margin - 3 : margin], image[0, 0, 0, [3, 2, 1]])


def test_tiles_of_an_unpadded_u_net_agree():
    """Where the pooling grids coincide and both tiles have seen the same pixels, scores are the same."""
    torch.manual_seed(0)
    model = models.unet_tiny(2, depth=2).eval()
    image = torch.randn(1, 3, 128, 96)
    with torch.no_grad():
        all_of_it = model(whole(image)).logits
        part = model(whole(image[:, :, 32:])).logits
    margin = 24
    assert torch.allclose(all_of_it[:, :, 32 + margin :], part[:, :, margin:], atol=1e-4)


def test_border_weights_are_the_formula():
    objects = torch.zeros(1, 12, dtype=torch.int64)
    objects[0, :3], objects[0, 6:] = 1, 2
    weights = border_weights(objects, 10.0, 5.0)[0]
    assert weights[objects[0] > 0].sum() == 0
    expected = [10 * math.exp(-((d1 + d2) ** 2) / 50) for d1, d2 in ((1, 3), (2, 2), (3, 1))]
    assert weights[3:6].tolist() == pytest.approx(expected)


def test_one_object_has_no_gap():
    objects = torch.zeros(8, 8, dtype=torch.int64)
    objects[2:4, 2:4] = 1
    assert float(border_weights(objects).max()) == 0


def test_a_sliding_window_and_its_convolutional_form_say_the_same():
    torch.manual_seed(0)
    fast = models.sliding_window(5, widths=[8, 16], hidden=16).eval()
    slow = models.sliding_window(5, widths=[8, 16], hidden=16, patches=True).eval()
    slow.load_state_dict(fast.state_dict())
    image = whole(torch.randn(2, 3, 13, 17))
    with torch.no_grad():
        assert torch.allclose(fast(image).logits, slow(image).logits, atol=1e-5)
    assert models.sliding_window(5).patch == 52


def test_the_receptive_field_is_what_a_pixel_depends_on():
    from eachmask.ops.receptive_field import Layer, reach

    plan = [Layer(3, 2, 1, 1), Layer(3, 1, 2, 2), Layer(2, 2), Layer(5, 1, 1, 2)]
    assert reach(plan).stride == 4
    x = torch.zeros(1, 1, 1, 129, requires_grad=True)
    y = x
    for kernel, stride, dilation, padding in plan:
        weight = torch.ones(1, 1, 1, kernel)
        y = F.conv2d(y, weight, stride=(1, stride), dilation=(1, dilation), padding=(0, padding))
    cell = y.shape[-1] // 2
    y[..., cell].sum().backward()
    seen = x.grad[0, 0, 0].nonzero()[:, 0]
    field, stride, first = reach(plan)
    assert int(seen[0]) == first + cell * stride
    assert int(seen[-1]) - int(seen[0]) + 1 == field


def test_receptive_fields_of_known_networks():
    from eachmask.ops.receptive_field import Layer, reach

    vgg16 = [layer for convs in (2, 2, 3, 3, 3) for layer in [*[Layer(3, padding=1)] * convs, Layer(2, stride=2)]]
    assert reach([*vgg16, Layer(7)]) == (404, 32, -90)
    assert reach(Layer(3, dilation=r) for r in (1, 1, 2, 4, 8, 16, 1)).field == 67


def test_what_a_network_sees_is_found_by_trying():
    from eachmask.ops.receptive_field import Layer, reach, reach_of

    plan = [Layer(3, 2, 1, 1), Layer(3, 1, 2, 2), Layer(2, 2), Layer(5, 1, 1, 2)]
    convs = [
        nn.MaxPool2d(p.kernel, p.stride)
        if p.kernel == 2
        else nn.Conv2d(3 if i == 0 else 4, 4, p.kernel, p.stride, p.padding, p.dilation)
        for i, p in enumerate(plan)
    ]
    assert reach_of(nn.Sequential(*convs), (16, 128)) == reach(plan)
    assert reach_of(lambda x: x.mean((2, 3), keepdim=True).expand_as(x), (8, 32)) is None


def test_show_says_how_far_a_network_sees(capsys):
    assert cli.main(["show", "sliding_window", "--field"]) == 0
    assert capsys.readouterr().out == "scores: one cell sees 52 x 52 px, the next one 1 px on\n"
    assert cli.main(["show", "mask_rcnn_lite0_p3", "--field"]) == 0
    assert "map of stride 8: one cell sees" in capsys.readouterr().out
    assert cli.main(["show", "graph_cut", "--field"]) == 2


def test_the_context_module_starts_as_the_identity():
    from eachmask.models.semantic.dilated_context import ContextModule

    torch.manual_seed(0)
    scores = torch.randn(2, 4, 40, 40)
    for multiples in ((), (2, 2, 4, 8, 16, 32, 32)):
        module = ContextModule(4, (1, 1, 2, 4, 8, 16, 1), multiples)
        error = (module(scores) - scores).abs().max()
        assert float(error.detach()) < 0.5, multiples
        assert float((module(scores).argmax(1) == scores.argmax(1)).float().mean()) > 0.95


def test_unpooling_puts_values_back_where_they_were():
    model = models.segnet_tiny(2, widths=[4, 8]).eval()
    with torch.no_grad():
        assert model(whole(torch.randn(1, 3, 21, 30))).logits.shape == (1, 2, 21, 30)


def test_pointrend_of_mmsegmentation_goes_through_the_size_it_saw():
    """Its rendered map has whole multiples of the coarse one's sides, here 40 x 48 for 37 x 45 px."""
    torch.manual_seed(0)
    model = models.pointrend_semantic_r50_mmseg(3, width=32, point_head={"width": 16}, points={"per_doubling": 50})
    logits, fine = torch.randn(1, 3, 10, 12), torch.randn(1, 256, 10, 12)
    raw = Raw(logits, None, (37, 45), ((37, 45),), fine)
    with torch.no_grad():
        (seen,), rendered = model.eval().decode(raw, DecodeOptions()), model.grids(raw)
    assert rendered.shape[-2:] == (40, 48)
    through = F.interpolate(rendered, size=(37, 45), mode="bilinear")
    assert torch.equal(seen.labels, through[0].argmax(0))
    expected = F.interpolate(through, size=(61, 70), mode="bilinear")[0].argmax(0)
    assert torch.equal(seen.resize((61, 70)).labels, expected)
