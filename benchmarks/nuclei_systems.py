"""Systems that find nuclei, as benchmarks/nuclei_peers.py learns and measures them: ours, Cellpose, StarDist, Otsu.

Each says how it learns from the pack's training images within so many seconds of CPU time, among which settings val
chooses, and how it then turns an image into objects. Cellpose and StarDist are only measured: nothing of the package
knows them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import eachmask
from eachmask.structures import RLE, Instances

Finder = Callable[[NDArray[Any]], Instances]
Setting = dict[str, float]
SMALLEST = 10
"""Objects of the classical pipeline have at least so many pixels."""
STARDIST_EPOCH, STARDIST_BATCH = 10, 2
"""Steps of an epoch, and images of a step (half of its default: more steps for the same time)."""
CELLPOSE_EPOCHS, CELLPOSE_BATCH = 101, 2
"""From 101 epochs on its learning rate falls in the last 50; images of a step (a quarter of its default)."""


def instances(labels: NDArray[Any]) -> Instances:
    """A label map (H, W), 0 is background -> objects."""
    masks = RLE.from_label_map(np.ascontiguousarray(labels, dtype=np.int32))
    size = (labels.shape[0], labels.shape[1])
    return Instances(size, torch.from_numpy(masks.boxes()), masks, scores=torch.ones(len(masks)))


def label_map(sample: Any) -> NDArray[np.int32]:
    """(H, W), 0 is background."""
    labels: NDArray[np.int32] = sample.targets.masks.to_label_map()
    return labels


class Watershed:
    """What a first script in scikit-image does; nothing is learnt."""

    settings: Sequence[Setting] = ({},)

    def learn(self, data: Path, train: Sequence[Any], seconds: float, folder: Path) -> dict[str, Any]:
        return {}

    def finder(self, folder: Path, setting: Setting) -> Finder:
        return watershed


def watershed(image: NDArray[Any]) -> Instances:
    """A Gaussian, Otsu's threshold (the smaller side), holes filled, a watershed of the distance to the background."""
    from scipy.ndimage import binary_fill_holes, distance_transform_edt
    from skimage.feature import peak_local_max
    from skimage.filters import gaussian, threshold_otsu
    from skimage.measure import label
    from skimage.segmentation import watershed as flooded

    gray = gaussian(image.astype(np.float64).mean(2), 1)
    if gray.min() == gray.max():
        return instances(np.zeros(gray.shape, np.int32))
    inside = gray > threshold_otsu(gray)
    inside = binary_fill_holes(~inside if inside.mean() > 0.5 else inside)
    numbers = label(inside)
    inside &= (np.bincount(numbers.ravel()) >= SMALLEST)[numbers]
    distance = gaussian(distance_transform_edt(inside), 1)
    seeds = np.zeros(gray.shape, np.int32)
    peaks = peak_local_max(distance, min_distance=4, labels=label(inside))
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return instances(flooded(-distance, seeds, mask=inside))


class Bundled:
    """The ``nuclei`` of the package, with the thresholds that came with it."""

    settings: Sequence[Setting] = ({},)
    file = "nuclei"

    def learn(self, data: Path, train: Sequence[Any], seconds: float, folder: Path) -> dict[str, Any]:
        return {}

    def finder(self, folder: Path, setting: Setting) -> Finder:
        predictor = eachmask.load(self.file, device="cpu", precision="fp32")
        return lambda image: predictor.predict(image)


class Budget(Bundled):
    """The same recipe, ``eachmask train nuclei``, with as many steps as the seconds allow."""

    def learn(self, data: Path, train: Sequence[Any], seconds: float, folder: Path) -> dict[str, Any]:
        steps = max(20, int(seconds / seconds_of_a_step(train, folder)))
        begin = time.process_time()
        eachmask.train("nuclei", data, folder / "run", steps=steps, evaluate_every=steps, device="cpu")
        return {"steps": steps, "with_an_evaluation_s": round(time.process_time() - begin, 1)}

    def finder(self, folder: Path, setting: Setting) -> Finder:
        self.file = str(folder / "run" / "model.safetensors")
        return super().finder(folder, setting)


def seconds_of_a_step(train: Any, folder: Path, timed: int = 3) -> float:
    """CPU time of the recipe's step, the first one left out."""
    from eachmask.recipes.nuclei import nuclei
    from eachmask.training.devices import make_accelerator
    from eachmask.training.loop import new_state, train_step
    from eachmask.training.recipe import Run
    from eachmask.training.sampling import Share, TrainingSequence, batches

    recipe, begin = replace(nuclei(), sample_weight=None), 0.0
    state, _ = new_state(recipe, train.categories, make_accelerator(Run(folder, device="cpu")), load=True)
    for i, pieces in enumerate(batches(TrainingSequence(train, recipe, 0), range(timed + 1), Share(), workers=0)):
        train_step(state, recipe, pieces)
        begin = begin if i else time.process_time()
    return (time.process_time() - begin) / timed


class Cellpose:
    """Cellpose 3's network from random numbers, trained by its own ``train_seg`` on gray images at their own scale."""

    settings: Sequence[Setting] = tuple({"cellprob_threshold": level} for level in (0.0, -1.0))
    diameter = 17.0
    """Of its own nuclei model; the same is asked for, so that nothing is rescaled."""

    def learn(self, data: Path, train: Sequence[Any], seconds: float, folder: Path) -> dict[str, Any]:
        from cellpose.dynamics import labels_to_flows

        begin = time.process_time()
        samples = [train[i] for i in range(len(train))]
        images = [gray(sample.image) for sample in samples]
        flows = labels_to_flows([label_map(sample) for sample in samples], device=torch.device("cpu"))
        prepared = time.process_time() - begin
        few, more = (self._fit(images, flows, 1, n * CELLPOSE_BATCH, folder, "timed") for n in (1, 5))
        step = max((more - few) / 4, 1e-3)  # without what happens once
        batches = max(1, round(seconds / step / CELLPOSE_EPOCHS))
        epochs = max(10, int(seconds / step / batches))
        spent = self._fit(images, flows, epochs, batches * CELLPOSE_BATCH, folder, "model")
        return {"steps": epochs * batches, "train_s": round(spent, 1), "flows_s": round(prepared, 1)}

    def _fit(self, images: list[Any], flows: list[Any], epochs: int, num: int, folder: Path, name: str) -> float:
        """CPU time of so many epochs of ``num`` images from the beginning; writes ``folder/models/name``."""
        from cellpose.models import CellposeModel
        from cellpose.train import train_seg

        torch.manual_seed(0)
        net = CellposeModel(gpu=False, pretrained_model=False, diam_mean=self.diameter).net
        begin = time.process_time()
        options = {"n_epochs": epochs, "nimg_per_epoch": num, "batch_size": CELLPOSE_BATCH, "min_train_masks": 1}
        where = {"save_path": folder, "model_name": name}
        train_seg(net, images, flows, channels=[0, 0], rescale=False, **options, **where)
        return time.process_time() - begin

    def finder(self, folder: Path, setting: Setting) -> Finder:
        from cellpose.models import CellposeModel

        model = CellposeModel(gpu=False, pretrained_model=str(folder / "models" / "model"), diam_mean=self.diameter)
        asked = {"diameter": self.diameter, "channels": [0, 0]}  # their own scale, as in training
        return lambda image: instances(model.eval(gray(image), **asked, **setting)[0])


def gray(image: NDArray[Any]) -> NDArray[np.uint8]:
    """(H, W, 3) -> (H, W)."""
    return image.mean(2).round().astype(np.uint8)


class StarDist:
    """StarDist's U-Net from random numbers, trained by its own ``train``."""

    settings: Sequence[Setting] = tuple({"prob_thresh": level} for level in (0.3, 0.4, 0.5, 0.6))
    overlap = 0.4
    """Its usual threshold of suppression. Its own ``optimize_thresholds`` would choose both, and for that suppresses
    every image up to sixty times; here val chooses as for the others."""

    def learn(self, data: Path, train: Sequence[Any], seconds: float, folder: Path) -> dict[str, Any]:
        from stardist.models import Config2D, StarDist2D

        images, labels = self._pairs(train)
        config = Config2D(n_rays=32, grid=(2, 2), n_channel_in=3, train_patch_size=(256, 256), train_epochs=10_000,
                          train_batch_size=STARDIST_BATCH, train_steps_per_epoch=STARDIST_EPOCH,
                          train_tensorboard=False)  # fmt: skip
        model = StarDist2D(config, name="model", basedir=str(folder))
        model.prepare_for_training()
        clock = stopping_after(seconds)
        model.callbacks.append(clock)
        model.train(images[4:], labels[4:], validation_data=(images[:4], labels[:4]), augmenter=flipped, seed=0)
        return {"steps": clock.steps, "train_s": round(clock.spent, 1)}

    def _pairs(self, samples: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        chosen = [samples[i] for i in range(len(samples))]
        return [stretched(sample.image) for sample in chosen], [label_map(sample) for sample in chosen]

    def finder(self, folder: Path, setting: Setting) -> Finder:
        from stardist.models import StarDist2D

        model = StarDist2D(None, name="model", basedir=str(folder))
        asked = {"nms_thresh": self.overlap, "verbose": False}
        return lambda image: instances(model.predict_instances(stretched(image), **asked, **setting)[0])


def read(data: Path, split: str) -> tuple[Any, list[str]]:
    """A split of the pack, and the kind of each of its images."""
    from eachmask.data.formats.coco_read import read_coco

    annotations = data / f"instances_{split}.json"
    modality = {image["id"]: image["modality"] for image in json.loads(annotations.read_text())["images"]}
    (samples,) = read_coco(annotations, images=data / "images" / split, strict=True).splits.values()
    return samples, [modality[samples[i].image_id] for i in range(len(samples))]


def stretched(image: NDArray[Any]) -> NDArray[np.float32]:
    """(H, W, 3) between its 1st and 99.8th percentile, as StarDist's examples do; one contrast for all channels."""
    low, high = np.percentile(image, (1, 99.8))
    return ((image.astype(np.float32) - low) / max(high - low, 1e-3)).astype(np.float32)


def flipped(image: NDArray[Any], labels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """StarDist's usual augmentation: turned, mirrored, brighter or darker."""
    turns, mirror = np.random.randint(4), np.random.rand() < 0.5
    image, labels = np.rot90(image, turns), np.rot90(labels, turns)
    if mirror:
        image, labels = image[:, ::-1], labels[:, ::-1]
    return image * np.random.uniform(0.6, 2) + np.random.uniform(-0.2, 0.2), labels


def stopping_after(seconds: float) -> Any:
    """A callback of Keras that ends the training when the CPU time is spent; in the last fifth the rate is a tenth."""
    from csbdeep.utils.tf import keras_import

    class Clock(keras_import("callbacks", "Callback")):  # type: ignore[misc]
        spent, steps = 0.0, 0

        def on_train_begin(self, logs: Any = None) -> None:
            self.begin, self.fallen = time.process_time(), False

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.steps += 1
            self.spent = time.process_time() - self.begin
            if self.spent > 0.8 * seconds and not self.fallen:
                self.fallen = True
                self.model.optimizer.learning_rate.assign(self.model.optimizer.learning_rate * 0.1)
            self.model.stop_training = self.spent > seconds

    return Clock()


SYSTEMS: dict[str, Any] = {
    "ours": Bundled(), "budget": Budget(), "cellpose": Cellpose(), "stardist": StarDist(), "watershed": Watershed(),
}  # fmt: skip
