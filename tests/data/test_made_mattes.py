"""Made foregrounds: their opacity is what it says, the seed says all, and a data set of them trains."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from eachmask.data.foregrounds import KINDS, SUPER, Foreground, Sketch, cutout, in_motion, out_of_focus
from eachmask.data.made_mattes import made_matte, write_made_mattes
from eachmask.data.reading import read
from eachmask.structures import RLE, Instances, Matte, Trimap, UserError
from eachmask.structures.backdrop import Backdrop

SIZE = (96, 120)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return sorted(folder.iterdir())


def texture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((*SIZE, 3), np.float32)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_is_there_in_part(kind: str):
    shares = []
    for seed in range(4):
        made = KINDS[kind](np.random.default_rng(seed), texture())
        again = KINDS[kind](np.random.default_rng(seed), texture())
        assert np.array_equal(made.alpha, again.alpha) and np.array_equal(made.colors, again.colors)
        assert made.alpha.shape == SIZE and made.colors.shape == (*SIZE, 3)
        assert 0 <= made.alpha.min() and made.alpha.max() <= 1 and 0 <= made.colors.min() and made.colors.max() <= 1
        shares.append(((made.alpha > 0.02) & (made.alpha < 0.98)).mean())
        assert (made.alpha < 0.02).mean() > 0.1, "a background is left"
    assert min(shares) > 0.005, "edges are soft"


def test_opacity_is_the_share_that_is_covered():
    sketch = Sketch(np.zeros((8, 8, 3), np.float32))
    sketch.fill(np.array([[2.0, 2.0], [5 - 1 / SUPER, 2.0], [5 - 1 / SUPER, 4.0], [2.0, 4.0]]), np.array([1.0, 0, 0]))
    made = sketch.foreground()
    assert made.alpha[2, 2] == 1 and made.alpha[2, 5] == 0 and made.alpha[5, 2] == 0
    assert made.alpha[4, 3] == pytest.approx(1 / SUPER)
    assert np.abs(made.colors[made.alpha > 0] - [1, 0, 0]).max() < 1e-2


def test_in_front_of_each_other_and_before_a_background():
    """Over and then before B is the same as one after the other before B."""
    rng = np.random.default_rng(1)
    front, back = (Foreground(texture(i), rng.random(SIZE, np.float32)) for i in (1, 2))
    behind = texture(3)
    after = front.alpha[..., None] * front.colors + (1 - front.alpha[..., None]) * (
        back.alpha[..., None] * back.colors + (1 - back.alpha[..., None]) * behind
    )
    both = front.over(back)
    mixed = both.alpha[..., None] * both.colors + (1 - both.alpha[..., None]) * behind
    assert np.abs(mixed - after).max() < 1e-5


@pytest.mark.parametrize("blur", [out_of_focus, in_motion])
def test_blur_moves_nothing_out_of_the_sum(blur):
    sharp = Foreground(texture(), np.zeros(SIZE, np.float32))
    sharp.alpha[40:60, 50:70] = 1
    kernel = blur(np.random.default_rng(3), 96)
    soft = sharp.blurred(kernel)
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    assert soft.alpha.sum() == pytest.approx(sharp.alpha.sum(), rel=1e-4) and 0 < soft.alpha.max() <= 1
    assert ((soft.alpha > 0.01) & (soft.alpha < 0.99)).any()


def test_cut_out_objects_keep_within_their_masks():
    inside = np.zeros(SIZE, bool)
    inside[30:90, 40:90] = True
    image, stands_off = np.full((*SIZE, 3), 0.5, np.float32), []
    for seed in range(8):
        made = cutout(np.random.default_rng(seed), image, RLE.from_bitmaps(inside[None]))
        deep = cv2.erode(inside.astype(np.uint8), np.ones((25, 25))) > 0
        assert made.alpha[deep].min() > 0.99
        assert np.abs(made.colors - image)[made.alpha > 0.01].max() < 0.21, "hairs are up to two fifths lighter"
        stands_off.append((made.alpha[~inside] > 0).any())
    assert any(stands_off) and not all(stands_off), "now and then hairs do"


class OneObject:
    """Photographs with an object that fills half of them."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int):
        from eachmask.data.sample import Sample

        inside = np.zeros((60, 80), bool)
        inside[15:50, 20:60] = True
        masks = RLE.from_bitmaps(inside[None])
        return Sample(np.full((60, 80, 3), 200, np.uint8), Instances((60, 80), torch.from_numpy(masks.boxes()), masks))


@pytest.mark.parametrize("objects", [None, OneObject()])
def test_images_obey_the_equation(photographs: list[Path], objects):
    for seed in range(5):
        sample = made_matte(seed, photographs, objects, SIZE)
        same = made_matte(seed, photographs, objects, SIZE)
        assert np.array_equal(sample.image, same.image) and torch.equal(sample.targets.alpha, same.targets.alpha)
        assert isinstance(sample.given, Trimap) and sample.given.image_size == SIZE == sample.targets.image_size
        alpha, colors = sample.targets.alpha.numpy()[..., None], sample.targets.foreground.permute(1, 2, 0).numpy()
        rest = sample.image / 255 - alpha * colors  # (1 - alpha) B
        assert rest.min() > -0.003 and (rest - (1 - alpha)).max() < 0.003, "some background in 0..1 is left"


def test_a_data_set(photographs: list[Path], tmp_path: Path):
    write_made_mattes(tmp_path / "made", {"train": (3, photographs, None), "val": (2, photographs, None)}, 7, (64, 64))
    data = read(tmp_path / "made", target=Matte)
    assert [len(data.splits[name]) for name in ("train", "val")] == [3, 2]
    sample = data.splits["val"][0]
    made = made_matte(10, photographs, None, (64, 64))
    assert np.array_equal(sample.image, made.image) and torch.equal(sample.given.values, made.given.values)
    assert (sample.targets.alpha - made.targets.alpha).abs().max() < 1e-4
    with pytest.raises(UserError, match="at least one photograph"):
        write_made_mattes(tmp_path / "none", {"train": (1, [], None)})


def test_backgrounds_are_photographed_a_second_time(photographs, tmp_path):
    """Almost the same where nothing lies before them, never quite; the image and its matte are those of the seed."""
    usual, other = (made_matte(5, photographs, size=SIZE, backgrounds=given) for given in (False, True))
    assert np.array_equal(usual.image, other.image) and isinstance(other.given, Backdrop)
    apart = (other.given.colors.permute(1, 2, 0).numpy() - other.image / 255)[usual.targets.alpha.numpy() == 0]
    assert 0.001 < np.abs(apart).mean() < 0.2
    write_made_mattes(tmp_path / "made", {"train": (2, photographs, None)}, 5, SIZE, backgrounds=True)
    data = read(tmp_path / "made", target=Matte)
    split = data.splits["train"]
    assert not data.problems
    assert isinstance(split[0].given, Backdrop) and not (tmp_path / "made/trimaps").exists()
    assert (split[0].given.colors - other.given.colors).abs().max() <= 0.5 / 255 + 1e-6
    (tmp_path / "made/backgrounds/train/00001.png").unlink()
    data = read(tmp_path / "made", target=Matte)
    assert data.splits["train"][0].given is None, "all of them, or none"
    (problem,) = data.problems
    assert problem.file.endswith("alpha/train/00001.png") and "backgrounds/ has nothing for 1 of 2" in str(problem)


def test_dots_in_names_are_no_suffixes(tmp_path):
    """photo.1.png and photo.2.png have backgrounds of their own, in whatever format."""
    for number in (1, 2):
        for folder, suffix in (("images", ".png"), ("alpha", ".png"), ("backgrounds", ".jpg")):
            (tmp_path / folder).mkdir(exist_ok=True)
            mode = "L" if folder == "alpha" else "RGB"
            Image.new(mode, (8, 8), 60 * number).save(tmp_path / folder / f"photo.{number}{suffix}")
    split = read(tmp_path, target=Matte).splits["all"]
    assert [Path(str(split.given_in[i])).name for i in range(2)] == ["photo.1.jpg", "photo.2.jpg"]
    assert all(isinstance(split[i].given, Backdrop) for i in range(2))
