from __future__ import annotations

import copy
import gc
import math
import pickle
import weakref

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from eachmask.backbones.fpn import FPN
from eachmask.backbones.fuse import FastConv2d, FastConv2dSame, optimize_for_inference, same
from eachmask.backbones.fuse import conv as fast_conv
from eachmask.backbones.fuse.conv import SILU, onednn_computes_in
from eachmask.backbones.fuse.folding import fold
from eachmask.backbones.networks import ResNet


def used(model: nn.Module) -> nn.Module:
    """With statistics of normalization that are not the initial ones."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
            nn.init.uniform_(module.weight, 0.3, 0.6)
    return model.eval()


BUILDERS = {
    "resnet18": lambda: torchvision.models.resnet18(weights=None),
    "resnet50": lambda: torchvision.models.resnet50(weights=None),
    "lite0": lambda: timm.create_model("tf_efficientnet_lite0", pretrained=False),
}


@pytest.mark.parametrize("name", BUILDERS)
@torch.inference_mode()
def test_same_outputs_after_optimizing_pickling_and_optimizing_again(name):
    model = used(BUILDERS[name]())
    image = torch.randn(1, 3, 128, 160)
    expected = model(image)
    fast = optimize_for_inference(model)
    for candidate in (fast, pickle.loads(pickle.dumps(fast)), optimize_for_inference(copy.deepcopy(fast))):
        assert torch.allclose(candidate(image), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert torch.equal(model(image), expected), "the original is untouched"
    spent = optimize_for_inference(model, in_place=True)
    assert spent is model and torch.equal(spent(image), fast(image))


@pytest.mark.parametrize("name", [*BUILDERS, "silu"])
@torch.inference_mode()
def test_autocast_to_bfloat16_rounds_the_weights_once(name):
    layers = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.SiLU(), nn.Conv2d(16, 8, 1)
    model = used(nn.Sequential(*layers) if name == "silu" else BUILDERS[name]())
    image = torch.randn(1, 3, 128, 160)
    exact = model(image)
    fast = optimize_for_inference(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded, first = model(image), fast(image)
        assert first.dtype == rounded.dtype == torch.bfloat16
        kept = [id(w) for m in fast.modules() for pair in getattr(m, "_rounded", {}).values() for w in pair]
        assert torch.equal(fast(image), first)
        assert kept == [id(w) for m in fast.modules() for pair in getattr(m, "_rounded", {}).values() for w in pair]
        assert kept or not onednn_computes_in(torch.bfloat16)

    def error(found):
        return float((found.float() - exact).abs().max())

    assert error(first) <= 1.5 * error(rounded), "no coarser than what torch's own autocast gives"
    assert torch.allclose(fast(image), exact, rtol=1e-3, atol=1e-4 * float(exact.abs().max())), "float32 as before"
    assert all(not m._rounded for m in pickle.loads(pickle.dumps(fast)).modules() if isinstance(m, FastConv2d))


@torch.inference_mode()
def test_same_pyramid():
    model = used(FPN(ResNet("resnet18")))
    image = torch.randn(2, 3, 96, 160)
    for ours, plain in zip(optimize_for_inference(model)(image).maps, model(image).maps, strict=True):
        assert torch.allclose(ours, plain, rtol=1e-3, atol=1e-4 * float(plain.abs().max()))


def test_weights_are_laid_out_once_for_each_of_onednns_layouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A map of another size may want another layout: then both are kept, instead of changing to and fro."""
    conv = fold(nn.Conv2d(32, 48, 3, stride=2)).eval()
    maps = [torch.randn(count, 32, *size) for size in ((7, 10), (8, 10), (13, 10), (32, 40)) for count in (1, 20, 21)]
    made = []
    layout_of = fast_conv._layout_of
    monkeypatch.setattr(fast_conv, "_layout_of", lambda weights: made.append(weights) or layout_of(weights))
    with torch.inference_mode():
        for x in maps + maps:
            torch.testing.assert_close(conv(x), F.conv2d(x, conv.weight, conv.bias, 2), atol=1e-5, rtol=1e-4)
    assert len(made) == 8  # four sizes, one map or many
    assert len({id(weights) for weights in conv._by_shape.values()}) == len(conv._by_layout) <= 4
    assert not pickle.loads(pickle.dumps(conv))._by_layout


ACTIVATIONS = {
    "none": ((-math.inf, math.inf), lambda x: x),
    "relu": ((0.0, math.inf), torch.relu),
    "relu6": ((0.0, 6.0), F.relu6),
    "silu": (SILU, F.silu),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("size", [(5, 7), (60, 60)])
def test_1x1_convolutions_on_small_and_large_maps(name: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    activation, plainly = ACTIVATIONS[name]
    conv = fold(nn.Conv2d(64, 96, 1), activation=activation).eval()
    x = 4 * torch.randn(2, 64, *size).to(memory_format=torch.channels_last)
    residual = torch.randn(2, 96, *size).to(memory_format=torch.channels_last)
    plain = F.conv2d(x, conv.weight, conv.bias)
    with torch.inference_mode():
        result = conv(x)
        torch.testing.assert_close(result, plainly(plain), atol=1e-5, rtol=1e-5)
        assert result.is_contiguous(memory_format=torch.channels_last)
        added = conv.add_to(residual.clone(), x)
        torch.testing.assert_close(added, plainly(plain + residual), atol=1e-5, rtol=1e-5)
    assert bool(conv._by_layout) == (size == (60, 60))  # small maps need no second copy of the weights


def test_nothing_of_the_weights_that_were_exchanged_stays() -> None:
    """Not even until the next garbage collection: loading would need the memory of two networks."""
    gc.collect()
    gc.disable()
    try:
        model = used(FPN(ResNet("resnet18")))
        replaced = [weakref.ref(module) for module in model.modules() if type(module) is nn.Conv2d]
        optimize_for_inference(model, in_place=True)
        assert len(replaced) > 20 and not any(ref() is not None for ref in replaced)
    finally:
        gc.enable()


@pytest.mark.parametrize("size", [(8, 12), (9, 12), (8, 11), (5, 5), (1, 2)])
@pytest.mark.parametrize(("kernel", "groups"), [(3, 1), (5, 6), (2, 6), (1, 1)])
@pytest.mark.parametrize("limits", [(-math.inf, math.inf), (0.0, 6.0)])
def test_tensorflows_padding_without_a_padded_copy(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], kernel: int, groups: int, limits: tuple[float, float]
) -> None:
    torch.manual_seed(0)
    conv = timm.layers.Conv2dSame(6, 12, kernel, stride=2, groups=groups)
    fast = optimize_for_inference(nn.Sequential(conv, nn.ReLU6() if limits[1] == 6 else nn.Identity()))
    assert type(fast[0]) is FastConv2dSame and type(fast[1]) is nn.Identity
    x = 4 * torch.randn(2, 6, *size)
    expected = conv(x).clamp(*limits)
    with torch.inference_mode():
        padded = []
        monkeypatch.setattr(same.F, "pad", lambda x, *rest, pad=F.pad: padded.append(x) or pad(x, *rest))
        torch.testing.assert_close(fast(x), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(pickle.loads(pickle.dumps(fast))(x), expected, atol=1e-5, rtol=1e-5)
        assert not any(p.shape == x.shape for p in padded), "only weights are padded"
        torch.testing.assert_close(fast.double()(x.double()).float(), expected, atol=1e-5, rtol=1e-5)
    with_gradient = x.clone().requires_grad_()
    fast.float()(with_gradient).sum().backward()
    assert with_gradient.grad is not None


def test_the_widest_weights_are_not_laid_out_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 64, 3, stride=2), nn.ReLU())
    narrow, wide = (4 * conv.weight.numel() for conv in (net[0], net[2]))
    x = torch.randn(1, 8, 40, 40)
    for most, kept in ((narrow + wide, [True, True]), (narrow + wide - 1, [True, False]), (0, [False, False])):
        monkeypatch.setattr(fast_conv, "MAX_LAYOUT_BYTES", most)
        fast = optimize_for_inference(net)
        torch.testing.assert_close(fast(x), net(x), atol=1e-5, rtol=1e-5)
        with torch.inference_mode():
            added = fast[2].add_to(torch.ones(1, 64, 9, 9), fast[0](x))
            torch.testing.assert_close(added, (net[2](net[0](x).relu()) + 1).relu(), atol=1e-5, rtol=1e-5)
        assert [bool(fast[i]._by_layout) for i in (0, 2)] == kept
