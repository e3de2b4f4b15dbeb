"""Swin transformers compute what torchvision's, the original detector's and MMSegmentation's compute."""

from __future__ import annotations

import pytest
import torch
from parity.dense import open_dense
from parity.recorded import check_raw, recorded, weights
from parity.swin import swin_settings
from torch.nn import functional as F

from eachmask.backbones.swin import Swin
from eachmask.weights import swin as dialects
from eachmask.weights.renaming import fill


@pytest.mark.parametrize("stem", recorded("torchvision_swin"))
@torch.enable_grad()
def test_torchvision(stem):
    fixture = open_dense(stem)
    said = fixture.manifest["config"]
    version = "v2_" if "_v2_" in fixture.manifest["system"] else ""
    net = Swin(f"swin_{version}t", swin_settings(fixture) | {"pads": False}).eval()
    state = weights(fixture)
    fill(net, dialects.from_torchvision(state) | {f"norms.{k}": v for k, v in net.norms.state_dict().items()})
    image = torch.from_numpy(fixture.input())
    stages = net.tokens(image)
    assert len(stages) == len(said["depths"])
    check_raw(fixture, "patch_embed", net.net.features[0](image).permute(0, 3, 1, 2))
    for number, tokens in enumerate(stages):
        check_raw(fixture, f"stage.{number}", tokens.permute(0, 3, 1, 2))
    normed = F.layer_norm(stages[-1], stages[-1].shape[-1:], state["norm.weight"], state["norm.bias"])
    check_raw(fixture, "norm", normed.permute(0, 3, 1, 2))
    logits = F.linear(normed.mean((1, 2)), state["head.weight"], state["head.bias"])
    check_raw(fixture, "logits", logits)
    loss = F.cross_entropy(logits, torch.tensor([3]))
    assert float(loss.detach()) == pytest.approx(fixture.manifest["losses"]["cross_entropy"], rel=1e-3)
    loss.backward()
    own = dict(net.named_parameters())
    for theirs in fixture.manifest["grads"]:
        if theirs.startswith("features."):
            error, same = fixture.compare_grad(theirs, own[f"net.{theirs}"].grad.numpy())
            assert same and error < 5e-2, (theirs, error)


@pytest.mark.parametrize("stem", recorded("swin_det_backbone"))
@torch.enable_grad()
def test_original_detector(stem):
    fixture = open_dense(stem)
    net = Swin("swin_t", swin_settings(fixture) | {"keeps_shift": True}).eval()
    fill(net, dialects.from_original(weights(fixture)))
    maps = net(torch.from_numpy(fixture.input())).maps
    for number, found in enumerate(maps):
        check_raw(fixture, f"out.{number}", found)
    probe = sum(((i + 1) * found**2).mean() + found[:, ::3, 1::4].sum() / found.numel() for i, found in enumerate(maps))
    assert float(probe.detach()) == pytest.approx(fixture.manifest["losses"]["probe"], rel=1e-3)
    probe.backward()
    block = net.net.features[3][1].attn.qkv.weight
    error, same_shape = fixture.compare_grad("layers.1.blocks.1.attn.qkv.weight", block.grad.numpy())
    assert same_shape and error < 5e-2


@pytest.mark.parametrize("stem", recorded("mmseg_upernet_swin"))
def test_mmsegmentation(stem):
    fixture = open_dense(stem)
    said = fixture.manifest["config"]["model"]["backbone"]
    changes = {"width": said["embed_dims"], "depths": said["depths"], "heads": said["num_heads"], "keeps_shift": True}
    net = Swin("swin_t", changes | {"window": said["window_size"]}).eval()
    state = weights(fixture)
    own = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    fill(net, dialects.from_mmdet(own))
    for number, found in enumerate(net(torch.from_numpy(fixture.input())).maps):
        check_raw(fixture, f"backbone.{number}", found)
