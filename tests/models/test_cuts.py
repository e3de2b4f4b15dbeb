"""Deep watershed, InstanceCut, PFN and the coverage tree on what a flawless network would say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from eachmask.models.proposal_free import coverage_tree, deep_watershed, instance_cut, pfn
from eachmask.models.proposal_free.dense import PixelTargets, pixel_targets
from eachmask.ops.regions import Borders, boundary_of
from eachmask.ops.watershed_levels import watershed_targets
from eachmask.structures import RLE, DecodeOptions, Instances

SIZES = ((40, 60),)
LABELS = [0, 1, 0]


def scene() -> np.ndarray:
    """Three rectangles that touch."""
    ids = np.zeros(SIZES[0], np.int32)
    ids[5:20, 5:25], ids[5:20, 25:40], ids[20:38, 5:50] = 1, 2, 3
    return ids


def class_logits(ids: np.ndarray) -> torch.Tensor:
    classes = np.concatenate([[0], np.array(LABELS) + 1])[ids]
    return one_hot(torch.from_numpy(classes), 3).permute(2, 0, 1)[None].float() * 10


def logits(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.where(mask, 5.0, -5.0)).float()


def targets(ids: np.ndarray) -> Instances:
    masks = RLE.from_label_map(ids)
    return Instances(SIZES[0], torch.from_numpy(masks.boxes()), masks, labels=torch.tensor(LABELS))


def check(found: Instances, least: float = 0.999) -> None:
    assert sorted(found.labels.tolist()) == [0, 0, 1]
    iou = found.masks.iou(RLE.from_label_map(scene()))
    assert iou.max(0).min() > least and float(found.scores.min()) > 0.99


@pytest.mark.parametrize("level, dilation", [(0, 3), (1, 5)])
def test_levels_are_cut_and_grow_back(level, dilation):
    model = deep_watershed.deep_watershed_lite0(2, cut_level=level, dilation=dilation)
    made = watershed_targets(scene(), model.config.boundaries, 10)
    levels = one_hot(torch.from_numpy(made.level).long(), 16).permute(2, 0, 1)[None].float() * 10
    raw = deep_watershed.Raw(class_logits(scene()), torch.from_numpy(made.unit_direction)[None], levels, SIZES)
    (found,) = model.decode(raw, DecodeOptions())
    check(found)
    losses = model.losses(raw, [targets(scene())])
    turned = model.losses(raw._replace(direction=-raw.direction), [targets(scene())])
    assert float(losses["energy"]) < 0.01
    assert float(losses["direction"]) < 0.02 < 1 < float(turned["direction"]), "ridges have no direction"


def edge_maps(edges: np.ndarray) -> torch.Tensor:
    return logits(edges).expand(1, 2, -1, -1)


def test_edges_with_a_gap_still_cut():
    ids, edges = scene(), boundary_of(scene())
    edges[19:21, 12:15] = False  # between the first and the third object, which have one class
    model = instance_cut.instance_cut_lite0(2)
    (found,) = model.decode(instance_cut.Raw(class_logits(ids), edge_maps(edges), SIZES), DecodeOptions())
    check(found, 0.9)


def test_without_edges_a_class_is_one_object_and_a_bias_keeps_it_whole():
    ids = scene()
    raw = instance_cut.Raw(class_logits(ids), edge_maps(np.zeros(ids.shape, bool)), SIZES)
    assert len(instance_cut.instance_cut_lite0(2).decode(raw, DecodeOptions())[0]) == 2
    raw = raw._replace(edges=edge_maps(boundary_of(ids)))
    assert len(instance_cut.instance_cut_lite0(2, bias=20.0).decode(raw, DecodeOptions())[0]) == 2


def test_an_edge_counts_for_the_objects_class_alone():
    ids = scene()
    target = PixelTargets(ids, np.array(LABELS), np.ones(ids.shape, bool))
    right = edge_maps(boundary_of(ids))[0].clone()
    other = right.clone()
    second = torch.from_numpy(ids == 2)
    other[0][second] *= -1  # what the first class's map says of an object of the second
    assert float(instance_cut.edge_loss(right, target)) == float(instance_cut.edge_loss(other, target)) < 0.01
    other[1][second] *= -1
    assert float(instance_cut.edge_loss(other, target)) > 0.5


@pytest.mark.parametrize("grouping", ["spectral", "kmeans"])
def test_places_and_counts_give_the_objects_back(grouping):
    ids = scene()
    model = pfn.pfn_lite0(2, grouping=grouping)
    places = torch.from_numpy(pfn.place_targets(ids))[None]
    raw = pfn.Raw(class_logits(ids), places, torch.tensor([[2.2, 0.9]]), SIZES)
    (found,) = model.decode(raw, DecodeOptions())
    check(found)
    losses = model.losses(raw, [targets(ids)])
    assert float(losses["places"]) == 0 and 0 < float(losses["counts"]) < 0.02
    (less,) = model.decode(raw._replace(counts=torch.tensor([[1.0, 1.0]])), DecodeOptions())
    assert len(less) == 2, "the count rules"


def test_places_are_centers_and_corners_in_px():
    places = pfn.place_targets(scene())
    assert places[:, 10, 10].tolist() == [15, 12.5, 5, 5, 25, 20] and not places[:, 0, 0].any()


def test_a_density_adds_up_within_the_image():
    density = torch.full((2, 1, 8, 8), 0.5).log()
    assert pfn.counts_of(density, ((8, 8), (2, 3))).tolist() == [[32.0], [3.0]]


def tree_raw(ids: np.ndarray) -> coverage_tree.Raw:
    """Features say which of the true objects a pixel belongs to."""
    features = one_hot(torch.from_numpy(ids).long(), 16).permute(2, 0, 1)[None].float()
    return coverage_tree.Raw(class_logits(ids), logits(boundary_of(ids))[None], features, SIZES)


def test_scores_are_learnt_until_the_cut_of_largest_coverage_wins():
    torch.manual_seed(0)
    model, raw = coverage_tree.coverage_tree_lite0(2), tree_raw(scene())
    optimizer = torch.optim.Adam(model.score.parameters(), lr=0.01)
    hinges = []
    for _ in range(150):
        with torch.enable_grad():
            loss = model.losses(raw, [targets(scene())])["coverage"]
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        hinges.append(float(loss.detach()))
    assert min(hinges) >= 0 and hinges[0] > 0.05 and hinges[-1] < 0.01
    (found,) = model.decode(raw, DecodeOptions())
    check(found, 0.95)


def test_the_border_around_a_node_is_what_it_does_not_hold():
    edges = np.array([[0, 1], [1, 2], [0, 2]])
    borders = Borders(edges, np.array([0.1, 0.5, 0.9]), np.array([10.0, 20.0, 5.0]))
    holds = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 1]], bool)
    around = coverage_tree.strengths_around(holds, borders)
    assert around.tolist() == pytest.approx([(1.0 + 4.5) / 15, (10.0 + 4.5) / 25, 0])


def test_an_image_without_objects_has_no_hinge():
    model = coverage_tree.coverage_tree_lite0(2)
    none = targets(scene())[:0]
    assert float(model.losses(tree_raw(scene()), [none])["coverage"]) == 0


def test_nodes_overlap_true_objects_as_their_pixels_do():
    ids = scene()
    model = coverage_tree.coverage_tree_lite0(1)
    noise = torch.rand(2, *ids.shape, generator=torch.Generator().manual_seed(0))
    regions = model._regions(noise[0], torch.stack([noise[1], 1 - noise[1]]))
    iou = coverage_tree.node_iou(regions, ids)
    for node in (0, regions.tree.num_leaves, regions.tree.num_nodes - 1):
        own = np.isin(regions.leaves, np.flatnonzero(regions.holds[node]) + 1)
        expected = [(own & (ids == i)).sum() / (own | (ids == i)).sum() for i in (1, 2, 3)]
        assert iou[node].tolist() == pytest.approx(expected)


def test_targets_are_those_of_the_padded_batch():
    made = pixel_targets(targets(scene()), (64, 64), SIZES[0])
    assert pfn.present(made).tolist() == [True] * 3
