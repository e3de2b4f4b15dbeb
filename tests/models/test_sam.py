"""The parts of Segment Anything: what they promise whatever their weights."""

from __future__ import annotations

import pytest
import torch

from eachmask.backbones.window_vit import ViTConfig, WindowViT, in_windows, out_of_windows
from eachmask.models.promptable.mask_decoder import DecoderConfig, Enlarge, MaskDecoder, by_cells, in_order
from eachmask.models.promptable.prompt_encoder import NOTHING, ON, PromptConfig, PromptEncoder
from eachmask.models.promptable.prompt_tokens import Frame, along, said
from eachmask.models.promptable.sam import sam_vit_b
from eachmask.structures import RLE, ImageBatch, Prompts, UserError
from eachmask.structures.logit_masks import LogitMasks, logits_of
from eachmask.structures.soft_masks import Canvas

SMALL = {
    "encoder": {"image_size": 64, "width": 24, "depth": 2, "heads": 2, "window": 3, "everywhere": [1]},
    "prompts": {"width": 32, "mask_width": 8},
    "decoder": {"width": 32, "heads": 2, "mlp": 32, "iou_width": 16},
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return sam_vit_b(**SMALL).eval()


def test_windows_come_back_as_they_went():
    x = torch.rand(2, 5, 7, 3)
    assert torch.equal(out_of_windows(in_windows(x, 3), (5, 7)), x)


def test_images_of_other_sizes_are_taken():
    net = WindowViT(ViTConfig(image_size=64, width=24, depth=2, heads=2, window=3, everywhere=(1,)))
    assert net(torch.rand(1, 3, 96, 48)).shape == (1, 6, 3, 24)


def test_enlarging_by_cells_is_the_transposed_convolution():
    torch.manual_seed(0)
    net = Enlarge(32)
    image = torch.rand(2, 32, 3, 5)
    plain = torch.nn.functional.gelu(net.norm(net.first(image)))
    plain = torch.nn.functional.gelu(net.second(plain))
    ours = net(image.flatten(2).transpose(1, 2))
    assert torch.allclose(in_order(ours.permute(0, 3, 1, 2), (3, 5)), plain, atol=1e-5)


def test_finer_features_are_sorted_as_the_enlarged_ones():
    for times in (2, 4):
        maps = torch.rand(1, 6, 3 * times, 5 * times)
        sorted_ = by_cells(maps, times)
        assert sorted_.shape == (1, 15, times**2, 6)
        if times == 4:
            assert torch.equal(in_order(sorted_.permute(0, 3, 1, 2), (3, 5)), maps)


def test_objects_together_are_answered_as_one_by_one(model):
    prompts = Prompts(
        (48, 64), points=[[5, 5], [40, 30], [9, 9]], point_objects=[0, 1, 1], boxes=[[3, 4, 20, 30]], box_objects=[2]
    )
    embedding = model.encode(ImageBatch(torch.rand(1, 3, 64, 64), ((48, 64),)))
    with torch.no_grad():
        raw = model.prompted(embedding, [prompts])
        assert sorted(raw.objects.tolist()) == [0, 1, 2]
        for i, number in enumerate(raw.objects.tolist()):
            alone = model.prompted(embedding, [prompts.of(number)])
            assert torch.allclose(alone.logits[0], raw.logits[i], atol=1e-5)


def test_a_lone_point_leaves_doubt_and_more_does_not():
    frame = Frame((48, 64), (64, 64), (16, 16))
    by = {
        name: next(said(Prompts((48, 64), **given), frame)).sure
        for name, given in {
            "point": {"points": [[5.0, 5]]},
            "points": {"points": [[5.0, 5], [9, 9]]},
            "box": {"boxes": [[1.0, 2, 30, 30]]},
            "mask": {"masks": RLE.from_coco([{"size": [48, 64], "counts": [500, 2000, 572]}])},
        }.items()
    }
    assert by == {"point": False, "points": True, "box": True, "mask": True}


def test_lines_become_points_along_them():
    line = torch.tensor([[0.0, 0], [10, 0], [10, 10]])
    assert along(line, 5).tolist() == [[2, 0], [6, 0], [10, 0], [10, 4], [10, 8]]
    assert along(line[:1], 5).tolist() == [[0, 0]]


def test_words_are_refused(model):
    embedding = model.encode(ImageBatch(torch.rand(1, 3, 64, 64), ((64, 64),)))
    with pytest.raises(UserError, match="understands no words"):
        model.prompted(embedding, [Prompts((64, 64), texts=["a cat"])])


def test_what_is_nothing_has_no_place():
    net = PromptEncoder(PromptConfig(width=32, mask_width=8))
    here, there = (net(torch.full((1, 1, 2), at), torch.tensor([[NOTHING]]), (64, 64)) for at in (3.0, 40.0))
    assert torch.equal(here, there)
    assert not torch.equal(*(net(torch.full((1, 1, 2), at), torch.tensor([[ON]]), (64, 64)) for at in (3.0, 40.0)))


def test_a_decoder_takes_objects_without_prompts():
    net = MaskDecoder(DecoderConfig(width=32, heads=2, mlp=32, iou_width=16), presence=True).eval()
    decoded = net(torch.rand(1, 32, 4, 6), torch.rand(1, 32, 4, 6), torch.zeros(2, 0, 32))
    assert decoded.logits.shape == (2, 4, 16, 24) and decoded.presence.shape == (2,)


def test_masks_of_logits_are_the_thresholded_maps_resized():
    torch.manual_seed(0)
    logits = torch.nn.functional.interpolate(torch.randn(3, 1, 5, 5), (16, 16), mode="bilinear")[:, 0]
    masks = LogitMasks(logits, Canvas((16, 16), (64, 64), (48, 64), (48, 64))).resize((90, 121))
    whole = torch.nn.functional.interpolate(logits[:, None], (64, 64), mode="bilinear", align_corners=False)
    plain = torch.nn.functional.interpolate(whole[..., :48, :], (90, 121), mode="bilinear", align_corners=False)
    assert ((plain[:, 0] > 0).numpy() != masks.to_rle().decode()).sum() <= 3
    assert torch.equal(logits_of(masks, (16, 16), (64, 64), (48, 64)), logits)


def test_a_rough_mask_is_heard_where_it_lies():
    mask = torch.zeros(1, 90, 120, dtype=torch.bool)
    mask[:, 30:60, 40:80] = True
    heard = logits_of(RLE.from_bitmaps(mask.numpy()), (16, 16), (64, 64), (48, 64))[0]
    assert heard[6, 8] > 7 and heard[1, 1] < -7 and (heard[12:] < 0).all()
