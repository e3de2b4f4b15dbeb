"""Gradients of depthwise convolutions against the definition in float64, and where they take the fast way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from eachmask import accel
from eachmask.accel import depthwise_training
from eachmask.accel.convolutions import FastConvolutions
from eachmask.accel.depthwise_training import depthwise

EXACT = {torch.float32: 2e-5, torch.bfloat16: 2e-2}
"""Largest error, a share of the largest value."""


def conv(k: int = 5, stride: int = 1, padding: int = 0, bias: bool = False, channels: int = 6) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(channels, channels, k, stride, padding, groups=channels, bias=bias)


def image(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=generator).contiguous(memory_format=torch.channels_last)


def results(layer: nn.Conv2d, x: Tensor) -> list[Tensor]:
    """Output and gradients of a loss that differs from place to place."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    output = layer(x)
    weights = torch.linspace(-1, 1, output.numel(), dtype=x.dtype).view(output.shape)
    (output * weights).sum().backward()
    return [output.detach(), *(t.grad for t in (x, *layer.parameters()) if t.grad is not None)]


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the kernels that take the fast way."""
    seen = []

    def spy(x: Tensor, weight: Tensor, *rest) -> Tensor:
        seen.append(tuple(weight.shape))
        return depthwise(x, weight, *rest)

    monkeypatch.setattr(depthwise_training, "depthwise", spy)
    return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("k", "stride", "padding", "bias", "size"),
    [
        (5, 1, 2, False, (3, 6, 9, 14)),
        (5, 2, 0, True, (2, 6, 11, 8)),
        (7, 1, 3, True, (1, 6, 12, 12)),
        (7, 3, 1, False, (2, 6, 16, 13)),
        (9, 1, 0, False, (2, 6, 9, 10)),
        (5, 1, 2, False, (1, 6, 1, 1)),
    ],
)
def test_output_and_gradients_are_those_of_the_definition(taken, dtype, k, stride, padding, bias, size):
    layer, x = conv(k, stride, padding, bias), image(*size)
    with FastConvolutions(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        ours = [t.clone() for t in results(layer, x)]
    assert taken == [(6, 1, k, k)]
    exact = results(layer.double(), x.double())
    assert len(ours) == len(exact) == 3 + bias
    for mine, theirs in zip(ours, exact, strict=True):
        assert float((mine - theirs).abs().max()) < EXACT[dtype] * max(float(theirs.abs().max()), 1.0)


def test_a_stride_in_bf16(taken):
    layer, x = conv(3, 2, 1), image(2, 6, 12, 9)
    with FastConvolutions():
        results(layer, x)
        assert not taken  # float32 has a fast kernel of its own
        with torch.autocast("cpu", torch.bfloat16):
            ours = [t.clone() for t in results(layer, x)]
    assert taken == [(6, 1, 3, 3)]
    for mine, theirs in zip(ours, results(layer.double(), x.double()), strict=True):
        assert float((mine - theirs).abs().max()) < 2e-2 * float(theirs.abs().max())


def test_images_are_summed_in_groups(monkeypatch, taken):
    layer, x = conv(5, 1, 2), image(5, 6, 8, 8)
    with FastConvolutions():
        whole = [t.clone() for t in results(layer, x)]
        monkeypatch.setattr(depthwise_training, "MOST_BYTES", 2 * x[0].numel() * 4)
        assert [len(x[part]) for part in depthwise_training._groups(x)] == [2, 2, 1]
        for one, other in zip(results(layer, x), whole, strict=True):
            assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)
    assert len(taken) == 2


@pytest.mark.parametrize(
    "layer",
    [
        conv(3, 1, 1),
        nn.Conv2d(6, 6, 5, groups=3),
        nn.Conv2d(6, 12, 5, groups=6),
        nn.Conv2d(6, 6, 5, groups=6, dilation=2),
        nn.Conv2d(6, 6, (5, 3), groups=6),
        nn.Conv2d(6, 6, 4, groups=6),
        nn.Conv2d(6, 6, 5, groups=6, padding="same"),
        conv().requires_grad_(False),
        conv().double(),
    ],
    ids=["3x3", "groups", "more channels", "dilation", "oblong", "even", "same", "frozen", "double"],
)
def test_other_convolutions_stay_as_they_are(taken, layer):
    x = image(2, 6, 12, 12).to(layer.weight.dtype)
    with FastConvolutions():
        result = layer(x)
    assert not taken and torch.equal(result, layer(x))


def test_prediction_and_the_switch(monkeypatch, taken):
    layer, x = conv(), image(1, 6, 8, 8)
    with FastConvolutions():
        with torch.no_grad():
            layer(x)
        monkeypatch.setenv(accel.SWITCH, "depthwise")
        layer(x)
    assert not taken
