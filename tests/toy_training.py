"""A model of one convolution and a data set of five made images, for tests of the training loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from eachmask.data.sample import Sample
from eachmask.structures import RLE, Category, DecodeOptions, ImageBatch, Instances, Preprocess
from eachmask.tasks.instances import INSTANCES
from eachmask.training.recipe import Recipe


class Toy(nn.Module):
    """One convolution with the three verbs: brightness is foreground."""

    task = INSTANCES

    def __init__(self, num_classes: int = 1) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, 1, 3, padding=1)

    def forward(self, images: ImageBatch):
        return self.encoder(images.tensor), images.sizes

    def losses(self, raw, targets):
        gt = torch.stack([torch.from_numpy(t.masks.to_label_map() > 0) for t in targets]).float()
        return {"mask": nn.functional.binary_cross_entropy_with_logits(raw[0][:, 0], gt)}

    def decode(self, raw, options: DecodeOptions):
        out = []
        for logits, size in zip(raw[0][:, 0], raw[1], strict=True):
            label = (logits[: size[0], : size[1]] > 0).int().numpy()
            masks = RLE.from_label_map(label)
            out.append(Instances(image_size=size, boxes=torch.from_numpy(masks.boxes()), masks=masks,
                                 scores=torch.ones(len(masks))))  # fmt: skip
        return out


class Made:
    categories = (Category(1, "thing"),)

    def __len__(self):
        return 5

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        label = np.zeros((32, 32), np.int32)
        y, x = rng.integers(0, 16, 2)
        label[y : y + 12, x : x + 12] = 1
        image = rng.integers(0, 40, (32, 32, 3)).astype(np.uint8)
        image[label > 0] += 180
        masks = RLE.from_label_map(label)
        targets = Instances(image_size=(32, 32), boxes=torch.from_numpy(masks.boxes()), masks=masks,
                            labels=torch.zeros(1, dtype=torch.int64))  # fmt: skip
        return Sample(image, targets, Path(f"made-{index}.png"), index)


def flip(sample, rng):
    if rng.random() < 0.5:
        sample = Sample(sample.image[:, ::-1].copy(), sample.targets.flip(), sample.path, sample.image_id)
    return sample


def score(predictions, targets):
    pairs = zip(predictions, targets, strict=True)
    return {"iou": float(np.mean([p.masks.union().iou(t.masks).max() if len(p) else 0 for p, t in pairs]))}


def recipe(**changes) -> Recipe:
    options = dict(variant="toy", preprocess=Preprocess(short_side=None, long_side=None), augment=flip, score=score,
                   best="iou", steps=24, batch_size=2, learning_rate=0.05, warmup_steps=4, evaluate_every=8,
                   ema_decay=0.9)  # fmt: skip
    return Recipe(**(options | changes))


def main(arguments: list[str]) -> None:
    """Train in a process of its own: OUT [--die-writing N]; N counts checkpoints, the last is left half written.

    The last that it prints, where there is /proc, are the names of the threads that still run when Python ends.
    """
    import atexit
    import os
    import signal

    from eachmask import models
    from eachmask.files import tensors as files
    from eachmask.training import loop
    from eachmask.training.recipe import Run

    def say_threads() -> None:
        names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").glob("*")]
        print("threads:", *names, flush=True)

    atexit.register(say_threads)
    models.variant = lambda name: Toy  # type: ignore[assignment]
    if "--die-writing" in arguments:
        left, real = int(arguments[2]), files.save_file
        count = [0]

        def dies(tensors, path, metadata):
            count[0] += path.name.startswith("step-")
            real(tensors, path, metadata=metadata)
            if count[0] == left:
                path.write_bytes(path.read_bytes()[:100])
                os.kill(os.getpid(), signal.SIGKILL)

        files.save_file = dies
    loop.train(recipe(), Made(), Made(), Run(out=Path(arguments[0]), checkpoint_every=3, device="cpu"))


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
