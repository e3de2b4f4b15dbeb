"""Panoptic quality counts as panopticapi does."""

from __future__ import annotations

import pytest
import torch
from parity.dense import open_dense
from parity.recorded import recorded

from eachmask.metrics.panoptic_maps import map_quality, qualities
from eachmask.structures import Category, PanopticMap, Segment
from eachmask.tasks.panoptic import PANOPTIC
from eachmask.tasks.settings import Settings


def maps_of(fixture):
    kinds = sorted((int(k), bool(c["isthing"])) for k, c in fixture.manifest["config"]["categories"].items())
    categories = tuple(Category(number, f"class {number}", is_thing=thing) for number, thing in kinds)
    label_of = {category.id: label for label, category in enumerate(categories)}
    result = []
    for number, said in fixture.manifest["segments"].items():
        found, target = (
            PanopticMap(
                torch.from_numpy(fixture.full(f"{side}.{number}")),
                tuple(Segment(s["id"], label_of[s["category_id"]], crowd=bool(s.get("iscrowd"))) for s in said[side]),
                categories,
            )
            for side in ("pred", "gt")
        )
        result.append((found, target))
    return categories, result


@pytest.mark.parametrize("stem", recorded("panoptic_quality"))
def test_counts_and_means(stem):
    fixture = open_dense(stem)
    categories, pairs = maps_of(fixture)
    for pair, said in zip(pairs, fixture.manifest["per_image"], strict=True):
        for label, q in qualities(*pair).items():
            expected = said[str(categories[label].id)]
            counts = (q.true_positives, q.false_positives, q.false_negatives)
            assert counts == (expected["tp"], expected["fp"], expected["fn"])
            assert q.iou_sum == pytest.approx(expected["iou"], rel=1e-9)
    totals = map_quality(pairs, len(categories))
    for category, q in zip(categories, totals, strict=True):
        expected = fixture.manifest["per_class"][str(category.id)]
        assert (q.pq, q.sq, q.rq) == pytest.approx(tuple(expected[k] for k in ("pq", "sq", "rq")), rel=1e-9)
    first, _ = PANOPTIC.sections([p for p, _ in pairs], [t for _, t in pairs], Settings())
    for name in ("pq", "sq", "rq"):
        assert first.values[name] == pytest.approx(fixture.manifest["losses"][f"all.{name}"], rel=1e-9)
        for kind in ("things", "stuff"):
            assert first.values[f"{name}_{kind}"] == pytest.approx(
                fixture.manifest["losses"][f"{kind}.{name}"], rel=1e-9
            )
