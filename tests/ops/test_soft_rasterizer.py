from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.draw import polygon2mask

from eachmask.ops import soft_rasterizer
from eachmask.ops.soft_rasterizer import inside, nearest_edges, soft_polygons, squared_distance


def polygons(num: int, points: int, size: tuple[int, int], seed: int = 0) -> torch.Tensor:
    """Stars, part of them beyond the canvas: (num, points, 2)."""
    generator = torch.Generator().manual_seed(seed)
    angle = torch.arange(points) / points * 2 * torch.pi
    radius = torch.rand(num, points, generator=generator) * 12 + 2
    center = torch.rand(num, 1, 2, generator=generator) * torch.tensor([size[1], size[0]])
    return center + radius[..., None] * torch.stack([angle.cos(), angle.sin()], dim=-1)


def test_inside_equals_a_hard_fill():
    size = (30, 41)
    vertices = polygons(20, 9, size)
    for found, ring in zip(inside(vertices, size).numpy(), vertices.double().numpy(), strict=True):
        assert np.array_equal(found, polygon2mask(size, ring[:, ::-1] - 0.5))


def test_a_hard_edge_is_a_hard_fill():
    size = (30, 41)
    vertices = polygons(20, 9, size).double()
    soft, hard = soft_polygons(vertices, size, 1e-4), inside(vertices, size)
    assert (soft > 0.5).eq(hard).float().mean() > 0.9995  # but for pixel centers on the outline itself
    assert (soft - hard.double()).abs().mean() < 1e-3


def test_value_is_the_sigmoid_of_the_squared_distance():
    # A square from 2 to 8: the center of pixel (4, 3) is 1.5 from its left side, that of (4, 0) 1.5 outside.
    square = torch.tensor([[[2.0, 2], [8, 2], [8, 8], [2, 8]]])
    mask = soft_polygons(square, (10, 10), 2.0)[0]
    assert mask[4, 3].item() == pytest.approx(torch.sigmoid(torch.tensor(1.5**2 / 2)).item(), abs=1e-6)
    assert mask[4, 0].item() == pytest.approx(torch.sigmoid(torch.tensor(-(1.5**2) / 2)).item(), abs=1e-6)
    assert mask[0, 0].item() == pytest.approx(torch.sigmoid(torch.tensor(-2 * 1.5**2 / 2)).item(), abs=1e-6)


def test_nearest_edge_is_the_nearest_of_all(monkeypatch):
    size = (14, 11)
    vertices = polygons(5, 7, size).double()
    y, x = torch.meshgrid(torch.arange(14) + 0.5, torch.arange(11) + 0.5, indexing="ij")
    pixels = torch.stack([x, y], dim=-1).double()[None, None]
    begin, end = (v[:, :, None, None] for v in (vertices, vertices.roll(-1, dims=1)))
    distances = squared_distance(pixels, begin, end)
    monkeypatch.setattr(soft_rasterizer, "EDGE_CHUNK_SIZE", 2 * 7 * 14 * 11)  # two polygons at a time
    found = distances.gather(1, nearest_edges(vertices, size)[:, None])[:, 0]
    assert torch.allclose(found, distances.amin(dim=1))


def test_gradient_equals_finite_differences():
    size = (12, 13)
    vertices = polygons(2, 6, size, seed=3).double().requires_grad_()
    weight = torch.rand(2, *size, generator=torch.Generator().manual_seed(1)).double()

    def value(v: torch.Tensor) -> torch.Tensor:
        return (soft_polygons(v, size, 1.5) * weight).sum()

    (gradient,) = torch.autograd.grad(value(vertices), vertices)
    step = 1e-6
    for index in np.ndindex(2, 6, 2):
        shift = torch.zeros_like(vertices)
        shift[index] = step
        expected = (value(vertices.detach() + shift) - value(vertices.detach() - shift)) / (2 * step)
        assert gradient[index].item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-6), index


def test_gradient_moves_a_polygon_onto_a_mask():
    size = (24, 24)
    y, x = torch.meshgrid(torch.arange(24) + 0.5, torch.arange(24) + 0.5, indexing="ij")
    expected = (((x - 13) / 7) ** 2 + ((y - 11) / 5) ** 2 <= 1).float()
    angle = torch.arange(16) / 16 * 2 * torch.pi
    vertices = (torch.stack([angle.cos(), angle.sin()], dim=-1) * 3 + 12)[None].requires_grad_()
    optimizer = torch.optim.Adam([vertices], lr=0.2)
    for _ in range(60):
        optimizer.zero_grad()
        mask = soft_polygons(vertices, size, 0.5)[0]
        loss = 1 - 2 * (mask * expected).sum() / (mask.sum() + expected.sum())
        loss.backward()
        optimizer.step()
    found = inside(vertices.detach(), size)[0]
    assert (found & expected.bool()).sum() / (found | expected.bool()).sum() > 0.9


def test_no_polygon_and_a_polygon_of_one_point():
    none = torch.zeros(0, 4, 2, requires_grad=True)
    assert soft_polygons(none, (3, 4), 1.0).shape == (0, 3, 4)
    soft_polygons(none, (3, 4), 1.0).sum().backward()
    point = torch.full((1, 4, 2), 2.0, requires_grad=True)
    mask = soft_polygons(point, (4, 4), 0.1)
    mask.sum().backward()
    assert (mask <= 0.5).all() and torch.isfinite(point.grad).all()
