"""What one data set holds of another, object by object and pixel by pixel."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eachmask.data.dataset import Dataset
from eachmask.data.file_split import FileSplit
from eachmask.data.split import AnnotatedImage
from eachmask.data.targets import masks_of
from eachmask.files.progress import Progress, no_progress
from eachmask.structures import Instances, PanopticMap


@dataclass
class Loss:
    """What the target holds of the source, measured by reading it back."""

    images: int = 0
    images_missing: int = 0
    objects: int = 0
    objects_missing: int = 0
    objects_changed: int = 0
    """Objects whose pixels differ."""
    objects_added: int = 0
    pixels: int = 0
    """Pixels of all objects of the source."""
    pixels_lost: int = 0
    pixels_added: int = 0
    mean_iou: float = 1.0
    """Over all objects of the source; a missing one counts 0."""
    min_iou: float = 1.0
    class_changed: int = 0
    crowd: int = 0
    crowd_lost: int = 0
    keypoints_lost: int = 0
    """Objects whose keypoints are gone."""
    scores: int = 0
    """Objects that a model has predicted, with a score."""
    scores_lost: int = 0

    @property
    def exact(self) -> bool:
        """Nothing is lost, added or changed."""
        gone = self.images_missing + self.objects_missing + self.objects_changed + self.objects_added
        return gone + self.class_changed + self.crowd_lost + self.keypoints_lost + self.scores_lost == 0


def compare(
    before: Dataset, after: Dataset, progress: Progress = no_progress
) -> tuple[Loss, list[tuple[str, int, float]]]:
    """What ``after`` holds of ``before``, and the objects that changed most (image, number from 1, IoU)."""
    written = {_key(split, image): image for split, image in after.images()}
    loss, ious, worst = Loss(), [], []
    for split, image in progress("comparing", list(before.images())):
        loss.images += 1
        there = written.get(_key(split, image))
        loss.images_missing += there is None
        targets, other = image.targets, None if there is None else there.targets
        if other is None or other.image_size != targets.image_size:
            other = Instances.empty(targets.image_size)
        own = _compare_targets(targets, other, (before, after), loss)
        scores, kept = _num_scores(image), 0 if there is None else _num_scores(there)
        loss.scores, loss.scores_lost = loss.scores + scores, loss.scores_lost + max(scores - kept, 0)
        ious.append(own)
        worst += [(f"{split}/{image.name}", i + 1, float(v)) for i, v in enumerate(own) if v < 1]
    joined = np.concatenate([np.zeros(0), *ious])
    if len(joined):
        loss.mean_iou, loss.min_iou = float(joined.mean()), float(joined.min())
    return loss, sorted(worst, key=lambda row: row[2])


def compare_files(
    before: Dataset[FileSplit[Any]], after: Dataset[FileSplit[Any]], progress: Progress = no_progress
) -> tuple[Loss, list[tuple[str, int, float]]]:
    """The same of maps and mattes, each of which counts as one object; IoU is the share of equal pixels."""
    there = {(name, _stem(split, i)): (split, i) for name, split in after.splits.items() for i in range(len(split))}
    loss, shares, worst = Loss(), [], []
    for name, split, i in progress("comparing", [(n, s, i) for n, s in before.splits.items() for i in range(len(s))]):
        loss.images, loss.objects = loss.images + 1, loss.objects + 1
        height, width = split.image_size(i)
        loss.pixels += height * width
        other = there.get((name, _stem(split, i)))
        changed = height * width if other is None else changed_pixels(split.targets(i), other[0].targets(other[1]))
        loss.images_missing += other is None
        loss.objects_missing += other is None
        loss.objects_changed, loss.pixels_lost = loss.objects_changed + (changed > 0), loss.pixels_lost + changed
        shares.append(1 - changed / max(height * width, 1))
        worst += [(f"{name}/{split.names[i]}", 1, shares[-1])] if changed else []
    if shares:
        loss.mean_iou, loss.min_iou = float(np.mean(shares)), min(shares)
    return loss, sorted(worst, key=lambda row: row[2])


def changed_pixels(here: Any, there: Any) -> int:
    """How many pixels of a map or matte differ; all of them where the sizes do. Segments may be numbered anew."""
    if here.image_size != there.image_size:
        return int(np.prod(here.image_size))
    if isinstance(here, PanopticMap) and isinstance(there, PanopticMap):
        return _pixels_in_other_segments(here, there)
    differs = torch.zeros(here.image_size, dtype=torch.bool)
    for layer in dataclasses.fields(here):
        a, b = getattr(here, layer.name), getattr(there, layer.name)
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
            unequal = (a.float() - b.float()).abs() > 1e-4 if a.is_floating_point() else a != b
            differs |= unequal.reshape(-1, *here.image_size).any(0)
    return int(differs.sum())


def _pixels_in_other_segments(here: PanopticMap, there: PanopticMap) -> int:
    """Of a segment and its counterpart, which share more pixels with one another than with any other and are of one
    class, the common pixels are unchanged."""
    (kinds, rows), (kinds_there, columns) = _kinds_and_places(here), _kinds_and_places(there)
    shape = (len(kinds), len(kinds_there))
    common = np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1]).reshape(shape)
    best = common.argmax(1)
    kept = [n for n, m in enumerate(best) if common[:, m].argmax() == n and kinds[n] == kinds_there[m]]
    return int(common.sum() - common[kept, best[kept]].sum())


def _kinds_and_places(seen: PanopticMap) -> tuple[list[tuple[str, bool] | None], NDArray[np.int64]]:
    """Class and crowd of each segment that is there, None of no segment; (H * W,) the segment of each pixel."""
    kind_of = {s.id: (seen.name_of(s.label), s.crowd) for s in seen.segments}
    ids, places = np.unique(seen.ids.cpu().numpy(), return_inverse=True)
    return [kind_of.get(i) for i in ids.tolist()], places.reshape(-1)


def _stem(split: FileSplit[Any], index: int) -> str:
    return PurePosixPath(split.names[index]).with_suffix("").as_posix()


def _key(split: str, image: AnnotatedImage) -> tuple[str, str]:
    return split.casefold(), image.stem.replace("/", "__")


def _compare_targets(here: Instances, there: Instances, sets: tuple[Dataset, Dataset], loss: Loss) -> Any:
    """(N,) IoU of each object with its counterpart; adds to ``loss``."""
    own, other = masks_of(here), masks_of(there)
    names = [_class_names(sets[0], here), _class_names(sets[1], there)]
    crowds = [here.crowd.tolist(), there.crowd.tolist()]
    area, area_there = own.area(), other.area()
    overlaps = own.overlaps(other)
    iou = overlaps.pixels / (area[overlaps.rows] + area_there[overlaps.columns] - overlaps.pixels)
    # of equal masks the one of the same class, and then of the same place in the list, is the counterpart
    pairs = list(zip(overlaps.rows.tolist(), overlaps.columns.tolist(), strict=True))
    alike = [(names[0][i] == names[1][j]) + (crowds[0][i] == crowds[1][j]) for i, j in pairs]
    order = np.lexsort((np.abs(overlaps.rows - overlaps.columns), -np.array(alike, np.float64), -iou))
    partner = np.full(len(own), -1)
    result, common, used = np.zeros(len(own)), np.zeros(len(own), np.int64), set()
    for k in order:
        i, j = pairs[k]
        if partner[i] < 0 and j not in used:
            partner[i], result[i], common[i] = j, iou[k], overlaps.pixels[k]
            used.add(j)
    met = partner >= 0
    loss.objects += len(own)
    loss.objects_missing += int((~met).sum())
    loss.objects_changed += int((met & (result < 1)).sum())
    loss.objects_added += len(other) - len(used)
    loss.pixels += int(area.sum())
    loss.pixels_lost += int((area - common).sum())
    loss.pixels_added += int((area_there[partner[met]] - common[met]).sum())
    loss.class_changed += sum(names[0][i] != names[1][partner[i]] for i in np.flatnonzero(met))
    loss.crowd += sum(crowds[0])
    loss.crowd_lost += sum(crowds[0][i] and not (met[i] and crowds[1][partner[i]]) for i in range(len(own)))
    if here.keypoints is not None and there.keypoints is None:
        loss.keypoints_lost += int((here.keypoints[:, :, 2] > 0).any(1).sum())
    return result


def _num_scores(image: AnnotatedImage) -> int:
    return sum(score is not None for score in image.scores)


def _class_names(data: Dataset, targets: Instances) -> list[str]:
    return [data.categories[label].name for label in targets.labels.tolist()]
