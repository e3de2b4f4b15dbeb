"""What recordings of MaskFormer and Mask2Former share: settings, targets, comparisons of all layers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from parity.recorded import check_raw
from torch import Tensor

from eachmask.models.panoptic import queries
from eachmask.structures import RLE, DecodeOptions, Instances, PanopticMap


def stuff_of(said: dict[str, Any]) -> list[int]:
    """Labels of stuff: those behind the things."""
    return list(range(said.get("things", said.get("num_classes", 0)), said.get("num_classes", 0)))


def check_layers(fixture: Any, raw: queries.Raw, classes: str, masks: str) -> None:
    """The last layer's outputs and those of all before it."""
    check_raw(fixture, classes, raw.classes)
    check_raw(fixture, masks, raw.masks)
    for number, (of_classes, of_masks) in enumerate(raw.earlier):
        check_raw(fixture, f"aux.{number}.{classes}", of_classes)
        check_raw(fixture, f"aux.{number}.{masks}", of_masks)
    assert f"aux.{len(raw.earlier)}.{masks}" not in fixture.manifest["raw"]


def target_of(fixture: Any) -> Instances:
    """The recorded masks and labels; they stand for things and stuff alike."""
    said = fixture.target()
    masks = RLE.from_bitmaps(said["masks"])
    return Instances(masks.size, torch.from_numpy(masks.boxes()), masks, labels=torch.from_numpy(said["labels"]).long())


def recorded_rand(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.rand gives the recording's numbers."""
    generator = np.random.RandomState(7)

    def rand(*size: int, **_: Any) -> Tensor:
        return torch.from_numpy(generator.random_sample(size).astype(np.float32)).to(torch.get_default_dtype())

    monkeypatch.setattr(torch, "rand", rand)


def renamed_by(convert: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Callable[[str], str]:
    """transformers' name of a parameter -> ours; what they call the class predictor tells the converter whose it is."""
    sign = {"class_predictor.weight": torch.zeros(1)}
    (known,) = convert(sign)

    def renamed(theirs: str) -> str:
        names = list(convert(sign | {theirs: torch.zeros(1)}))
        return next((name for name in names if name != known), known)

    return renamed


def check_total(fixture: Any, model: Any, found: dict[str, Tensor], names: dict[str, str], total: str) -> None:
    """Every layer's terms, and their weighted sum.

    Args:
        names: our term -> theirs; layers are counted alike.
    """
    weights = {"class": model.config.loss.classes, "mask": model.config.loss.mask, "dice": model.config.loss.dice}
    losses = fixture.manifest["losses"]
    for name, value in found.items():
        term, _, layer = name.partition("_")
        theirs = names[term] + (f"_{layer}" if layer else "")
        assert float(value) / weights[term] == pytest.approx(losses[theirs], rel=1e-3), name
    assert float(sum(found.values())) == pytest.approx(losses[total], rel=1e-3)


def check_answers(fixture: Any, model: Any, raw: queries.Raw) -> None:
    """Semantic, panoptic and instance results of all recorded cases, at the size of the original image."""
    probabilities = raw.classes[0].softmax(-1)[:, :-1]
    said = fixture.manifest["config"]
    for case, sizes in fixture.manifest["cases"].items():
        valid, size = tuple(sizes["img_shape"]), tuple(sizes["ori_shape"])
        masks = queries.at_size(raw.masks[0], raw.padded, valid, size)
        scores = queries.semantic_scores(probabilities, masks)
        if said["semantic_on"] and not said["panoptic_on"] and size != valid:
            own = queries.semantic_scores(probabilities, queries.at_size(raw.masks[0], raw.padded, valid, valid))
            scores = torch.nn.functional.interpolate(own[None], size, mode="bilinear", align_corners=False)[0]
        check_raw(fixture, f"{case}.sem_post", scores)
        differing, _ = fixture.compare_full(f"{case}.sem_labels", scores.argmax(0).numpy().astype(np.uint8))
        assert differing <= 1e-3 * masks[0].numel()


def check_panoptic(fixture: Any, model: Any, raw: queries.Raw) -> None:
    """Segments of all recorded cases; their notes name the thresholds where these are not the config's."""
    said = fixture.manifest["config"]
    usual = (said["object_mask_threshold"], said["overlap_threshold"])
    for case, expected in fixture.manifest["panoptic"].items():
        note = fixture.manifest["full"][f"{case}.panoptic"].get("note", "")
        numbers = re.findall(r"threshold ([\d.]+\d)", note)
        least, share = (float(number) for number in numbers) if len(numbers) == 2 else usual
        sizes = fixture.manifest["cases"].get(case) or fixture.manifest["cases"]["plain"]
        valid, size = tuple(sizes["img_shape"]), tuple(sizes["ori_shape"])
        kept = model.select_panoptic(raw, DecodeOptions(score_threshold=least))
        masks = queries.at_size(kept.masks[0], raw.padded, valid, size)
        found = queries.merge_queries(kept.scores[0], kept.labels[0], masks, model.config.stuff, share)
        check_segments(fixture, f"{case}.panoptic", found, expected)
    config = model.config
    model.config = replace(config, object_threshold=0.2, overlap_threshold=0.1)
    (decoded,) = model.pack_panoptic(model.select_panoptic(raw, DecodeOptions()), DecodeOptions())
    model.config = config
    check_segments(fixture, "looser.panoptic", decoded, fixture.manifest["panoptic"]["looser"])


def check_segments(fixture: Any, name: str, found: PanopticMap, expected: list[dict[str, Any]]) -> None:
    """The same segments in the same order, and the same pixels but for a thousandth."""
    assert [segment.label for segment in found.segments] == [segment["category_id"] for segment in expected]
    differing, same_shape = fixture.compare_full(name, found.ids.numpy().astype(np.int16))
    assert same_shape and differing <= 1e-3 * found.ids.numel()


def check_instances(fixture: Any, model: Any, raw: queries.Raw) -> None:
    """Scores, labels and masks of the pairs of query and class."""
    for case, sizes in fixture.manifest["cases"].items():
        seen = raw._replace(sizes=(tuple(sizes["img_shape"]),))
        (found,) = model.pack_instances(model.select_instances(seen, DecodeOptions()), DecodeOptions())
        reference = fixture.detections(case)
        assert len(found) == len(reference["scores"])
        valid, size = (tuple(sizes[key]) for key in ("img_shape", "ori_shape"))
        assert np.allclose(found.scores.numpy(), reference["scores"], atol=1e-3 if size == valid else 1e-2)
        scores, labels, chosen = queries.best_pairs(raw.classes[0], model.config.max_detections, model.config.stuff)
        exact = scores * queries.confidence(raw.masks[0], raw.padded, valid, size)[chosen]
        order = exact.argsort(descending=True, stable=True)
        assert np.allclose(exact[order].numpy(), reference["scores"], atol=1e-3)
        certain = reference["scores"] > 0
        assert (labels[order].numpy() == reference["labels"])[certain].mean() > 0.95  # two of one score change places
        masks = found.masks.resize(tuple(sizes["ori_shape"])).to_rle().decode()
        if size == valid:
            for mask, expected in zip(masks, reference["masks"], strict=False):
                assert (mask ^ expected).sum() <= max(2, 0.01 * (mask | expected).sum())
