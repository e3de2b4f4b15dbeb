"""PointRend for label maps against recorded outputs of Detectron2 and MMSegmentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from parity.dense import dense, open_dense
from parity.recorded import batch, check_pyramid, check_raw, doubled, recorded, weights

from eachmask import models
from eachmask.ops import points as point_ops
from eachmask.structures import DecodeOptions, SemanticMap
from eachmask.weights.from_detectron2 import pointrend_semantic as detectron2
from eachmask.weights.from_mmseg import pointrend as mmseg
from eachmask.weights.renaming import fill


def detectron2_settings(said):
    points = {
        "per_image": said["train_num_points"], "oversample": float(said["oversample_ratio"]),
        "importance": said["importance_sample_ratio"], "doublings": said["subdivision_steps"],
        "per_doubling": said["subdivision_num_points"],
    }  # fmt: skip
    head = {"layers": said["num_fc"], "width": said["fc_dim"], "coarse_in_each": said["coarse_pred_each_layer"]}
    return {"points": points, "point_head": head}


def mmseg_settings(said):
    coarse, point = said["model"]["decode_head"]
    return {"width": coarse["channels"], "point_head": {"layers": point["num_fcs"], "width": point["channels"]}}


@pytest.fixture(scope="module", params=recorded("detectron2_pointrend_semantic", "mmseg_pointrend"))
def case(request):
    fixture = open_dense(request.param)
    said = fixture.manifest["config"]
    if fixture.manifest["system"].startswith("mmseg"):
        variant, convert, config = models.pointrend_semantic_r50_mmseg, mmseg.convert, mmseg_settings(said)
        drawn = fixture.manifest["aux"]["uniform_draws"]["shapes"]
        config["points"] = {"per_image": drawn[0][1] // 3}
    else:
        variant, convert, config = models.pointrend_semantic_r50, detectron2.convert, detectron2_settings(said)
    model = variant(num_classes=said["num_classes"], **config).eval()
    fill(model, convert(weights(fixture)))
    with torch.no_grad():
        return fixture, model, convert, model(batch(fixture))


def test_maps(case):
    fixture, model, _, raw = case
    names = fixture.manifest["raw"]
    if "neck.0" in names:
        with torch.no_grad():
            check_pyramid(fixture, model.backbone(batch(fixture).tensor).maps)
    check_raw(fixture, "coarse", raw.logits)
    with torch.no_grad():
        check_raw(fixture, "sem_logits" if "sem_logits" in names else "logits", model.grids(raw))


def test_labels(case):
    fixture, model, _, raw = case
    for name, shapes in fixture.manifest["cases"].items():
        with torch.no_grad():
            (seen,) = model.decode(raw._replace(sizes=(tuple(shapes["img_shape"]),)), DecodeOptions())
        labels = seen.resize(tuple(shapes["ori_shape"])).labels.numpy()
        pixels, same = fixture.compare_full(f"{name}.sem_labels", labels)
        assert same and pixels / labels.size <= max(1e-3, 5 * fixture.manifest["stability"]["label_change"])


def test_losses_and_gradients(case, monkeypatch):
    fixture, model, convert, _ = case
    said = fixture.manifest
    generator = np.random.RandomState(7)
    shapes = said["aux"]["uniform_draws"]["shapes"]
    draws = iter([torch.from_numpy(generator.random_sample(tuple(s)).astype(np.float32)).double() for s in shapes])
    monkeypatch.setattr(point_ops.torch, "rand", lambda *_, **__: next(draws))
    labels = dense().make_label_map(*said["made"]["target_labels"]["shape"], model.num_classes, seed=4)
    with torch.enable_grad(), doubled(model):
        losses = model.losses(model(batch(fixture)), [SemanticMap(torch.from_numpy(labels))])
        sum(losses.values()).backward()
    theirs = said["losses"]
    coarse, points = ("decode_0.loss_ce", "decode_1.pointloss_ce") if "total" in theirs else (
        "loss_sem_seg", "loss_sem_seg_point"
    )  # fmt: skip
    assert float(losses["pixels"]) == pytest.approx(theirs[coarse], rel=1e-3)
    assert float(losses["points"]) == pytest.approx(theirs[points], rel=1e-3)
    own = dict(model.named_parameters())
    for name in said["grads"]:
        (ours,) = convert({name: torch.zeros(1)})
        error, same = fixture.compare_grad(name, own[ours].grad.numpy())
        assert same and error < (5e-2 if name.startswith("backbone") else 1e-3), (name, error)
    model.zero_grad()
