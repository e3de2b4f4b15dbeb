"""A large image that is interrupted: what its tiles gave is used by the next run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import Spots, spots_image, spots_info

from eachmask.batch.options import BatchOptions
from eachmask.batch.run import run
from eachmask.data.images.inputs import find_inputs
from eachmask.inference.predictor import Predictor
from eachmask.structures import RLE, Instances
from eachmask.tasks.kept import from_arrays, to_arrays

OPTIONS = BatchOptions(tile=64, save=("labels", "csv"))


class Interrupted(Spots):
    """Ends like a process that is stopped, after some passes."""

    left, passes = 10**6, 0

    def forward(self, images):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.passes += 1
        return super().forward(images)


def predictor() -> Predictor:
    return Predictor(Interrupted(), spots_info(), device="cpu", precision="fp32", optimize=False)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.fromarray(spots_image(1, 210, 150)).save(tmp_path / "large.png")
    return tmp_path / "large.png"


def interrupted(image: Path, out: Path, passes: int) -> Predictor:
    """A run that has seen so many tiles; its predictor, which may go on."""
    looking = predictor()
    looking.model.left = passes
    with pytest.raises(KeyboardInterrupt):
        run(looking, find_inputs([image]), out, OPTIONS)
    looking.model.left, looking.model.passes = 10**6, 0
    return looking


def test_what_tiles_gave_is_not_predicted_again(image: Path, tmp_path: Path) -> None:
    whole = predictor()
    run(whole, find_inputs([image]), tmp_path / "whole", OPTIONS)
    assert whole.model.passes == 12
    out, heard = tmp_path / "out", []
    again = interrupted(image, out, 7)
    assert len(list((out / ".journal/tiles").rglob("*.npz"))) == 7
    run(again, find_inputs([image]), out, OPTIONS, on_tile=lambda done, total: heard.append((done, total)))
    assert again.model.passes == 5 and heard == [(done, 12) for done in range(1, 13)]
    assert tree(out) == tree(tmp_path / "whole")  # the tiles are gone, too


def test_damaged_tiles_are_predicted_again(image: Path, tmp_path: Path) -> None:
    run(predictor(), find_inputs([image]), tmp_path / "whole", OPTIONS)
    out = tmp_path / "out"
    again = interrupted(image, out, 8)
    files = sorted((out / ".journal/tiles").rglob("*.npz"))
    files[0].write_bytes(b"")
    files[1].write_bytes(files[1].read_bytes()[:-30])
    np.savez(files[2], boxes=np.zeros((1, 4)), evil=np.array([{}], object))
    other = Instances((30, 30), torch.zeros(1, 4), RLE.from_bitmaps(np.ones((1, 30, 30), bool)))
    np.savez(files[3], **to_arrays(other))
    run(again, find_inputs([image]), out, OPTIONS)
    assert again.model.passes == 4 + 4 and tree(out) == tree(tmp_path / "whole")


def test_tiles_of_another_image_are_not_used(image: Path, tmp_path: Path) -> None:
    again = interrupted(image, tmp_path / "out", 7)
    Image.fromarray(spots_image(2, 210, 150)).save(image)
    run(again, find_inputs([image]), tmp_path / "out", OPTIONS)
    assert again.model.passes == 12


def test_objects_come_back_as_they_were() -> None:
    bitmaps = np.random.default_rng(0).random((3, 20, 30)) < 0.5
    found = Instances(
        (20, 30),
        torch.rand(3, 4),
        RLE.from_bitmaps(bitmaps),
        torch.tensor([2, 0, 1]),
        torch.rand(3),
        torch.rand(3, 5, 3),
    )
    for one in (found, Instances((20, 30), torch.rand(2, 4)), Instances.empty((20, 30)), found[:0]):
        back = from_arrays(to_arrays(one), (20, 30))
        assert repr(back) == repr(one)
        for name in ("boxes", "labels", "scores", "keypoints", "crowd"):
            mine, theirs = getattr(one, name), getattr(back, name)
            assert mine is theirs is None or torch.equal(mine, theirs)
        assert one.masks is None or back.masks.to_coco() == one.masks.to_coco()
