"""Winograd with gradients against the definition in float64, and where it takes the place of torch's convolution."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask import accel
from eachmask.accel import winograd, winograd_training
from eachmask.accel.convolutions import FastConvolutions
from eachmask.accel.winograd_training import conv3x3


def problem(n: int, c: int, k: int, h: int, w: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((n, c, h, w), (k, c, 3, 3), (k,), (n, k, h, w))
    x, weight, bias, above = (torch.randn(shape, generator=generator) for shape in shapes)
    return x, weight / (9 * c) ** 0.5, bias, above


def results(convolve, x: Tensor, weight: Tensor, bias: Tensor, above: Tensor) -> list[Tensor]:
    """Output and the three gradients."""
    inputs = [t.clone().requires_grad_() for t in (x, weight, bias)]
    output = convolve(*inputs)
    output.backward(above)
    return [output.detach(), *(t.grad for t in inputs)]


@pytest.mark.parametrize("shape", [(2, 8, 12, 13, 18), (1, 5, 3, 4, 4), (3, 4, 4, 1, 2), (1, 70, 64, 30, 7)])
def test_output_and_gradients_are_those_of_the_definition(shape):
    given = problem(*shape)
    exact = results(lambda x, w, b: F.conv2d(x, w, b, padding=1), *(t.double() for t in given))
    for ours, theirs in zip(results(conv3x3, *given), exact, strict=True):
        assert ours.dtype == torch.float32
        assert float((ours - theirs).abs().max()) < 2e-5 * float(theirs.abs().max())


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_same_step_gives_the_same_bits(threads):
    given, before = problem(4, 64, 64, 33, 47), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        first, second = results(conv3x3, *given), results(conv3x3, *given)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_only_wanted_gradients_are_made():
    x, weight, _, above = problem(1, 4, 4, 8, 8)
    weight.requires_grad_()
    conv3x3(x, weight).backward(above)
    assert x.grad is None and weight.grad is not None


def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the inputs that take the fast way."""
    seen = []

    def spy(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        seen.append(tuple(x.shape))
        return conv3x3(x, weight, bias)

    monkeypatch.setattr(winograd_training, "conv3x3", spy)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # the more threads, the larger the maps that it takes
    return seen


def test_modules_take_the_fast_way_while_it_is_entered(monkeypatch):
    seen = counted(monkeypatch)
    net = nn.Sequential(nn.Conv2d(96, 96, 3, padding=1), nn.ReLU(), nn.Conv2d(96, 96, 3, padding=1, bias=False))
    x = torch.randn(1, 96, 64, 64)
    with FastConvolutions():
        fast = net(x)
    assert len(seen) == 2
    assert torch.allclose(fast, net(x), atol=1e-5) and len(seen) == 2


def test_what_follows_may_overwrite_the_output():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(96, 96, 3, padding=1), nn.ReLU(inplace=True))
    # Away from 0 every output is on the same side of the ReLU, whatever its last bit.
    nn.init.constant_(net[0].bias[::2], 5.0)
    nn.init.constant_(net[0].bias[1::2], -5.0)
    x = torch.randn(1, 96, 64, 64)
    net(x).sum().backward()
    expected = net[0].weight.grad.clone()
    net.zero_grad()
    with FastConvolutions():
        net(x).sum().backward()
    assert torch.allclose(net[0].weight.grad, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "other",
    [
        {"stride": 2}, {"padding": 0}, {"dilation": 2, "padding": 2}, {"groups": 2}, {"kernel_size": 5, "padding": 2},
        {"padding": "same"}, {"out_channels": 8},
    ],
)  # fmt: skip
def test_other_convolutions_stay_as_they_are(monkeypatch, other):
    seen = counted(monkeypatch)
    conv = nn.Conv2d(**({"in_channels": 96, "out_channels": 96, "kernel_size": 3, "padding": 1} | other))
    x = torch.randn(1, 96, 64, 64)
    with FastConvolutions():
        result = conv(x)
    assert not seen and torch.equal(result, conv(x))


def test_small_maps_other_types_and_what_learns_nothing_stay_as_they_are(monkeypatch):
    seen = counted(monkeypatch)
    conv = nn.Conv2d(96, 96, 3, padding=1)
    with FastConvolutions():
        conv(torch.randn(1, 96, 8, 8))
        with torch.autocast("cpu", torch.bfloat16):
            conv(torch.randn(1, 96, 64, 64))
        with torch.no_grad():
            conv(torch.randn(1, 96, 64, 64))
        conv.double()(torch.randn(1, 96, 64, 64).double())
        conv.float().requires_grad_(False)(torch.randn(1, 96, 64, 64))
    assert not seen


def test_the_switch_turns_it_off(monkeypatch):
    seen = counted(monkeypatch)
    conv, x = nn.Conv2d(96, 96, 3, padding=1), torch.randn(1, 96, 64, 64)
    with FastConvolutions():
        conv(x)
        assert len(seen) == 1
        monkeypatch.setenv(accel.SWITCH, "winograd")
        conv(x)
    assert len(seen) == 1


def test_it_is_for_wide_layers_on_large_maps_and_the_more_so_the_more_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert winograd.pays(128, 128, 96) and not winograd.pays(128, 128, 24)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert winograd.pays(256, 256, 221) and not winograd.pays(128, 128, 221)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    assert winograd.pays(256, 256, 1024) and not winograd.pays(256, 256, 221)
    assert winograd.tiles_of(torch.zeros(2, 1, 33, 32)) == 2 * 9 * 8
