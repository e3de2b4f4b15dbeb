"""DeepLabv3+ against recorded outputs of Detectron2."""

from __future__ import annotations

import pytest
import torch
from parity.dense import dense, open_dense
from parity.recorded import batch, check_raw, recorded, weights

from eachmask import models
from eachmask.models.semantic.labeling import resized
from eachmask.structures import DecodeOptions, SemanticMap
from eachmask.weights.from_detectron2.deeplab import convert
from eachmask.weights.renaming import fill


def built(fixture, variant, **config):
    model = variant(num_classes=fixture.manifest["config"]["num_classes"], **config).eval()
    fill(model, convert(weights(fixture)))
    return model


@pytest.fixture(scope="module", params=recorded("detectron2_deeplabv3plus"))
def semantic(request):
    fixture = open_dense(request.param)
    said = fixture.manifest["config"]
    decoder = {
        "rates": said["aspp_dilations"], "mean_window": said["aspp_pool_window"],
        "low_widths": said["project_channels"],
    }  # fmt: skip
    return fixture, built(fixture, models.deeplabv3plus_r52, decoder=decoder, loss={"hard": said["top_k"]})


def test_semantic_maps_and_labels(semantic):
    fixture, model = semantic
    with torch.no_grad():
        maps = model.backbone(batch(fixture).tensor).maps
        raw = model(batch(fixture))
        check_raw(fixture, "backbone.res2", maps[0])
        check_raw(fixture, "backbone.res5", maps[-1])
        check_raw(fixture, "aspp", model.classifier.aspp(maps[-1]))
    check_raw(fixture, "sem_low", raw.logits)
    check_raw(fixture, "sem_logits", resized(raw.logits, raw.padded))
    for name, shapes in fixture.manifest["cases"].items():
        (seen,) = model.decode(raw._replace(sizes=(tuple(shapes["img_shape"]),)), DecodeOptions())
        labels = seen.resize(tuple(shapes["ori_shape"])).labels.numpy()
        pixels, same = fixture.compare_full(f"{name}.sem_labels", labels)
        assert same and pixels / labels.size <= max(1e-3, 5 * fixture.manifest["stability"]["label_change"])


def test_semantic_loss_and_gradients(semantic):
    fixture, model = semantic
    said = fixture.manifest
    labels = dense().make_label_map(*said["made"]["target_labels"]["shape"], model.num_classes, seed=4)
    with torch.enable_grad():
        loss = sum(model.losses(model(batch(fixture)), [SemanticMap(torch.from_numpy(labels))]).values())
        loss.backward()
    assert float(loss) == pytest.approx(said["losses"]["loss_sem_seg"], rel=1e-3)
    own = dict(model.named_parameters())
    for theirs in said["grads"]:
        (name,) = convert({theirs: torch.zeros(1)})
        error, same = fixture.compare_grad(theirs, own[name].grad.numpy())
        assert same and error < (5e-2 if theirs.startswith("backbone") else 1e-3), (theirs, error)
    model.zero_grad()
