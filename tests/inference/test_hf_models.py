"""Tiny random networks of transformers, saved to a folder and loaded by name."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import eachmask
from eachmask.cli import main
from eachmask.inference.hf_models import preprocess_of
from eachmask.inference.matting import MattePredictor
from eachmask.structures import Instances, PanopticMap, SemanticMap, Trimap, UserError

transformers = pytest.importorskip("transformers", reason="needs the package transformers, which is not here")

NAMES = {i: f"class {i}" for i in range(5)}
SWIN = {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4}


def mask2former():
    backbone = transformers.SwinConfig(**SWIN, out_features=["stage1", "stage2", "stage3", "stage4"])
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=32,
        encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=32, num_queries=7, id2label=NAMES,
    )  # fmt: skip
    return transformers.Mask2FormerForUniversalSegmentation(config), transformers.Mask2FormerImageProcessor


def maskformer():
    backbone = transformers.SwinConfig(**SWIN, out_features=["stage1", "stage2", "stage3", "stage4"])
    decoder = transformers.DetrConfig(
        d_model=32, decoder_layers=1, decoder_ffn_dim=32, decoder_attention_heads=2, num_queries=7, encoder_layers=0
    )
    config = transformers.MaskFormerConfig(
        fpn_feature_size=32, mask_feature_size=32, backbone_config=backbone, decoder_config=decoder, id2label=NAMES
    )
    return transformers.MaskFormerForInstanceSegmentation(config), transformers.MaskFormerImageProcessor


def segformer():
    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 16, 16], num_attention_heads=[1, 1, 1, 1], decoder_hidden_size=16,
        id2label=NAMES,
    )  # fmt: skip
    return transformers.SegformerForSemanticSegmentation(config), transformers.SegformerImageProcessor


def eomt():
    config = transformers.EomtConfig(
        hidden_size=32, num_hidden_layers=3, num_blocks=1, num_attention_heads=2, image_size=64, num_queries=7,
        num_upscale_blocks=1, num_register_tokens=0, id2label=NAMES,
    )  # fmt: skip
    return transformers.EomtForUniversalSegmentation(config), transformers.EomtImageProcessor


def detr():
    body = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = transformers.DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=body, d_model=32,
        encoder_layers=1, decoder_layers=1, encoder_ffn_dim=32, decoder_ffn_dim=32, encoder_attention_heads=8,
        decoder_attention_heads=8, num_queries=7, id2label=NAMES,
    )  # fmt: skip
    return transformers.DetrForSegmentation(config), transformers.DetrImageProcessor


def upernet():
    body = transformers.ConvNextConfig(
        hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    config = transformers.UperNetConfig(
        backbone_config=body, hidden_size=16, use_auxiliary_head=False, id2label=NAMES, num_labels=len(NAMES)
    )
    return transformers.UperNetForSemanticSegmentation(config), transformers.SegformerImageProcessor


def rf_detr():
    body = {
        "model_type": "rf_detr_dinov2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": 64, "patch_size": 16, "num_windows": 1, "out_features": ["stage1", "stage2"],
    }  # fmt: skip
    config = transformers.RfDetrConfig(
        backbone_config=body, d_model=32, decoder_ffn_dim=32, decoder_layers=1, decoder_self_attention_heads=2,
        decoder_cross_attention_heads=2, num_queries=7, group_detr=1, intermediate_size=32, id2label=NAMES,
    )  # fmt: skip
    return transformers.RfDetrForInstanceSegmentation(config), transformers.RfDetrImageProcessor


def tokenizer():
    """Knows no word but begins and ends."""
    return transformers.CLIPTokenizer(vocab={"<|startoftext|>": 0, "<|endoftext|>": 1}, merges=[])


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 255, (60, 90, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("make", "ending", "target"),
    [
        (segformer, "", SemanticMap),
        (upernet, "", SemanticMap),
        (detr, "", PanopticMap),
        (detr, "#instance", Instances),
        (mask2former, "", PanopticMap),
        (mask2former, "#instance", Instances),
        (mask2former, "#semantic", SemanticMap),
        (maskformer, "", PanopticMap),
        (rf_detr, "", Instances),
    ],
)
def test_a_saved_model_predicts_like_ours(make, ending, target, image, tmp_path):
    torch.manual_seed(0)
    net, processor = make()
    net.save_pretrained(tmp_path)
    processor(size={"height": 64, "width": 96}, image_mean=[0.5] * 3, image_std=[0.25] * 3).save_pretrained(tmp_path)
    predictor = eachmask.load(f"hf:{tmp_path}{ending}", device="cpu", precision="fp32")
    assert predictor.info.preprocess.fixed_size == (64, 96) and predictor.info.preprocess.mean == (0.5, 0.5, 0.5)
    found = predictor.predict(image, score=0.0)
    assert isinstance(found, target) and found.image_size == (60, 90)
    assert [category.name for category in found.categories] == list(NAMES.values())


def test_detr_does_not_see_what_pads_an_image(tmp_path):
    torch.manual_seed(0)
    net, processor = detr()
    net.save_pretrained(tmp_path)
    processor().save_pretrained(tmp_path)
    model = eachmask.load(f"hf:{tmp_path}", device="cpu", precision="fp32").model
    pixels, mask = torch.zeros(2, 3, 128, 160), torch.zeros(2, 128, 160, dtype=torch.int64)
    pixels[0, :, :64, :96], pixels[1] = torch.randn(3, 64, 96), torch.randn(3, 128, 160)
    mask[0, :64, :96] = mask[1] = 1
    with torch.inference_mode():
        raw = model(eachmask.structures.ImageBatch(pixels, ((64, 96), (128, 160))))
        theirs, blind = (net.eval()(pixel_values=pixels, **more) for more in ({"pixel_mask": mask}, {}))
    assert torch.allclose(raw.classes, theirs.logits, atol=1e-5)
    assert not torch.allclose(raw.classes[0], blind.logits[0], atol=1e-5)


@pytest.mark.parametrize("name", ["Segformer", "DPT", "MobileViT", "Detr", "RfDetr"])
def test_large_images_become_small_as_the_processors_make_them(name):
    pixels = np.random.default_rng(0).integers(0, 255, (300, 450, 3)).astype(np.uint8)
    more = {"do_center_crop": False} if name == "MobileViT" else {}
    processor = getattr(transformers, f"{name}ImageProcessor")(size={"height": 64, "width": 96}, **more)
    ours = preprocess_of(processor)([pixels]).tensor
    theirs = processor(images=[pixels], return_tensors="pt")["pixel_values"]
    assert float((ours - theirs).abs().mean()) < 0.01


def test_channels_in_the_order_that_the_processor_wants():
    assert preprocess_of(transformers.MobileViTImageProcessor()).channels == "bgr"
    assert preprocess_of(transformers.SegformerImageProcessor()).channels == "rgb"


def test_the_logits_are_those_of_transformers(image, tmp_path):
    torch.manual_seed(0)
    net, processor = mask2former()
    net.save_pretrained(tmp_path)
    processor(size={"height": 64, "width": 96}).save_pretrained(tmp_path)
    model = eachmask.load(f"hf:{tmp_path}", device="cpu", precision="fp32").model
    pixels = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        raw = model(eachmask.structures.ImageBatch(pixels, ((64, 96),)))
        theirs = net.eval()(pixel_values=pixels)
    assert torch.allclose(raw.classes, theirs.class_queries_logits, atol=1e-5)
    assert torch.allclose(raw.masks, theirs.masks_queries_logits, atol=1e-4)


def test_scores_of_rf_detr_are_those_of_its_processor(image, tmp_path):
    torch.manual_seed(0)
    net, processor = rf_detr()
    net.save_pretrained(tmp_path)
    processor(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    predictor = eachmask.load(f"hf:{tmp_path}", device="cpu", precision="fp32")
    pixels = predictor.info.preprocess([image]).tensor
    with torch.inference_mode():
        said = net.eval()(pixel_values=pixels)
    (theirs,) = processor().post_process_instance_segmentation(
        said, threshold=0.0, target_sizes=[(60, 90)], return_binary_maps=True
    )
    found = predictor.predict(image, score=0.0)[: len(theirs["segments_info"])]
    assert found.scores.tolist() == pytest.approx([row["score"] for row in theirs["segments_info"]], abs=1e-4)
    masks = found.masks.to_rle().decode()
    assert (masks == theirs["segmentation"].numpy().astype(bool)).mean() > 0.99


def test_eomt_sees_squares(image, tmp_path):
    torch.manual_seed(0)
    net, processor = eomt()
    net.save_pretrained(tmp_path)
    processor(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    found = eachmask.load(f"hf:{tmp_path}", device="cpu", precision="fp32").predict(image, score=0.0)
    assert isinstance(found, PanopticMap) and found.image_size == (60, 90)


def test_oneformer_is_told_its_task(image, tmp_path):
    torch.manual_seed(0)
    backbone = transformers.SwinConfig(**SWIN, out_features=["stage1", "stage2", "stage3", "stage4"])
    net = transformers.OneFormerForUniversalSegmentation(
        transformers.OneFormerConfig(
            backbone_config=backbone, num_queries=7, hidden_dim=32, conv_dim=32, mask_dim=32, encoder_layers=1,
            encoder_feedforward_dim=32, dim_feedforward=32, decoder_layers=2, num_attention_heads=2,
            query_dec_layers=1, text_encoder_width=32, text_encoder_num_layers=1, text_encoder_vocab_size=2,
            id2label=NAMES,
        )
    )  # fmt: skip
    net.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    transformers.Mask2FormerImageProcessor(size={"height": 64, "width": 96}).save_pretrained(tmp_path)
    for ending, target in (("", PanopticMap), ("#instance", Instances), ("#semantic", SemanticMap)):
        found = eachmask.load(f"hf:{tmp_path}{ending}", device="cpu", precision="fp32").predict(image, score=0.0)
        assert isinstance(found, target) and found.image_size == (60, 90)


def test_sam_3_finds_words(image, tmp_path):
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32}
    layers = small | {"num_layers": 1}
    body = small | {"num_hidden_layers": 1, "image_size": 56, "pretrain_image_size": 56, "window_size": 2,
                    "global_attn_indexes": [0]}  # fmt: skip
    config = transformers.Sam3Config(
        vision_config={"backbone_config": body | {"model_type": "sam3_vit_model"}, "fpn_hidden_size": 32},
        text_config=small | {"num_hidden_layers": 1, "vocab_size": 2, "projection_dim": 32},
        geometry_encoder_config=layers, detr_encoder_config=layers, detr_decoder_config=layers | {"num_queries": 5},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 2},
    )  # fmt: skip
    net = transformers.Sam3Model(config).eval()
    net.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    transformers.Sam3ImageProcessor(size={"height": 56, "width": 56}).save_pretrained(tmp_path)
    predictor = eachmask.load(f"hf:{tmp_path}#cat,traffic light", device="cpu", precision="fp32")
    found = predictor.predict(image, score=0.0)
    assert [category.name for category in found.categories] == ["cat", "traffic light"] and len(found) == 10
    with torch.inference_mode():
        words = tokenizer()(["cat"], padding="max_length", max_length=32, return_tensors="pt")
        said = net(pixel_values=predictor.info.preprocess([image]).tensor, **words)
    theirs = (said.pred_logits.sigmoid() * said.presence_logits.sigmoid()).sort(descending=True).values[0]
    assert found.scores[found.labels == 0].tolist() == pytest.approx(theirs.tolist(), abs=1e-4)
    with pytest.raises(UserError, match="#cat,dog"):
        eachmask.load(f"hf:{tmp_path}", device="cpu")


def test_by_command(image, tmp_path):
    net, processor = segformer()
    net.save_pretrained(tmp_path / "net")
    processor(size={"height": 64, "width": 96}).save_pretrained(tmp_path / "net")
    Image.fromarray(image).save(tmp_path / "street.png")
    call = ["predict", str(tmp_path / "street.png"), "--model", f"hf:{tmp_path / 'net'}", "--save", "labels"]
    assert main([*call, "--device", "cpu", "--precision", "fp32", "--out", str(tmp_path / "results")]) == 0
    (written,) = (tmp_path / "results" / "labels").glob("*.png")
    expected = eachmask.load(f"hf:{tmp_path / 'net'}", device="cpu", precision="fp32").predict(image)
    assert np.array_equal(np.asarray(Image.open(written)), expected.labels.numpy())


def test_what_does_not_segment_is_refused(tmp_path):
    transformers.BertConfig().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no segmentation model"):
        eachmask.load(f"hf:{tmp_path}", device="cpu")
    with pytest.raises(UserError, match="#panoptic"):
        eachmask.load(f"hf:{tmp_path}#boxes", device="cpu")


def vitmatte(folder):
    torch.manual_seed(0)
    backbone = transformers.VitDetConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=64, pretrain_image_size=64,
        patch_size=16, num_channels=4, window_size=2, window_block_indices=[0], residual_block_indices=[1],
        use_relative_position_embeddings=True, out_features=["stage2"],
    )  # fmt: skip
    config = transformers.VitMatteConfig(
        backbone_config=backbone, hidden_size=32, convstream_hidden_sizes=[8, 8, 16], fusion_hidden_sizes=[16, 8, 8, 8]
    )
    transformers.VitMatteForImageMatting(config).save_pretrained(folder)
    transformers.VitMatteImageProcessor().save_pretrained(folder)


def test_vitmatte_fills_in_trimaps(image, tmp_path):
    vitmatte(tmp_path)
    predictor = eachmask.load(f"hf:{tmp_path}", device="cpu", precision="fp32")
    known = torch.full((60, 90), 128, dtype=torch.uint8)
    known[:, :20], known[:, 70:] = 255, 0
    found = MattePredictor(predictor, Trimap(known)).predict(image).alpha
    assert (found[:, :20] == 1).all() and (found[:, 70:] == 0).all() and found[:, 20:70].std() > 0
    net = transformers.VitMatteForImageMatting.from_pretrained(tmp_path).eval()
    pixels = transformers.VitMatteImageProcessor()(images=image, trimaps=known.numpy(), return_tensors="pt")
    with torch.inference_mode():
        theirs = net(**pixels).alphas[0, 0, :60, :90]
    apart = (found - theirs)[:, 20:70].abs().max()
    assert apart < 0.02, "128 / 255 is all but the 0.5 that ViTMatte learned unknown by"


def test_vitmatte_by_command(image, tmp_path):
    vitmatte(tmp_path / "net")
    Image.fromarray(image).save(tmp_path / "lemur.png")
    known = np.full((60, 90), 128, np.uint8)
    known[:, :20], known[:, 70:] = 255, 0
    Image.fromarray(known).save(tmp_path / "trimap.png")
    call = ["matte", str(tmp_path / "lemur.png"), "--trimap", str(tmp_path / "trimap.png"), "--device", "cpu"]
    assert main([*call, "--solver", f"hf:{tmp_path / 'net'}", "--out", str(tmp_path / "out")]) == 0
    (alpha,) = (tmp_path / "out" / "alpha").rglob("*.png")
    found = cv2.imread(str(alpha), cv2.IMREAD_UNCHANGED)
    assert (found[:, :20] == 65535).all() and (found[:, 70:] == 0).all()
