"""A made clip with a shadow is taken apart: the shadow belongs to what casts it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from eachmask.batch.layers import take_apart
from eachmask.cli import main
from eachmask.models.matting.omnimatte import Config, omnimatte
from eachmask.structures import UserError

FRAMES, SIZE = 8, (40, 72)
QUICK = Config(widths=(12, 16, 24), steps=150, learning_rate=5e-3)


def clip() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """An orange square with a shadow to its right walks over a meadow; frames, masks, shadows and the meadow."""
    rng = np.random.default_rng(0)
    meadow = cv2.resize(rng.uniform(90, 220, (10, 18, 3)).astype(np.float32), SIZE[::-1])
    frames, masks = np.repeat(meadow[None], FRAMES, 0), np.zeros((FRAMES, *SIZE), bool)
    shadows = np.zeros_like(masks)
    for t in range(FRAMES):
        x = 4 + 6 * t
        masks[t, 12:26, x : x + 10] = True
        shadows[t, 20:26, x + 10 : x + 18] = True
        frames[t][shadows[t]] *= 0.5
        frames[t][masks[t]] = (220, 140, 40)
    return np.rint(frames).astype(np.uint8), masks, shadows, meadow


def test_a_shadow_belongs_to_what_casts_it():
    frames, masks, shadows, meadow = clip()
    losses: list[float] = []
    layers = omnimatte(frames, masks[None], QUICK, on_step=lambda step, loss: losses.append(loss))
    alpha = layers.alpha[0].numpy()
    assert len(losses) == QUICK.steps and np.mean(losses[-10:]) < 0.3 * losses[0]
    assert alpha[masks].mean() > 0.95
    assert alpha[shadows].mean() > 0.3, "half of the light is gone there"
    assert alpha[~masks & ~shadows].mean() < 0.05
    behind = layers.background.permute(1, 2, 0).numpy()
    assert np.abs(behind - meadow / 255).mean() < 0.02
    again = layers.composite().permute(0, 2, 3, 1).numpy()
    assert np.abs(again - frames / 255).mean() < 0.01, "I = alpha F + (1 - alpha) B"


def test_two_objects_have_two_layers():
    frames, masks, _, _ = clip()
    other = np.zeros_like(masks)
    other[:, 30:38, 5:15] = True
    frames[other] = (30, 60, 200)
    layers = omnimatte(frames, np.stack([masks, other]), QUICK)
    assert layers.alpha[0].numpy()[masks].mean() > 0.95 and layers.alpha[1].numpy()[other].mean() > 0.95
    assert layers.alpha[0].numpy()[other].mean() < 0.2 and layers.alpha[1].numpy()[masks].mean() < 0.2


def test_the_same_seed_gives_the_same_layers():
    frames, masks, _, _ = clip()
    few = Config(widths=(8, 8), steps=3)
    first, again = (omnimatte(frames, masks[None], few, seed=1) for _ in range(2))
    assert torch.equal(first.alpha, again.alpha)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clip as images and label maps."""
    path = tmp_path_factory.mktemp("clip")
    frames, masks, _, _ = clip()
    for t in range(FRAMES):
        for kind, pixels in (("frames", frames[t][..., ::-1]), ("masks", masks[t].astype(np.uint8) * 3)):
            (path / kind).mkdir(exist_ok=True)
            cv2.imwrite(str(path / kind / f"{t:05d}.png"), pixels)
    return path


def test_files_of_layers(folder: Path, tmp_path: Path):
    av = pytest.importorskip("av", reason="needs PyAV")
    out = tmp_path / "out"
    few = Config(widths=(8, 8), steps=20)
    onto = lambda: iter([np.full((1, 1, 3), 250, np.uint8)])  # noqa: E731
    written = take_apart(folder / "frames", folder / "masks", out, onto=onto, config=few)
    assert [path.name for path in written] == ["layer_3.mov", "background.png", "composite.mp4"]
    with av.open(str(written[0])) as container:
        shown = [frame.to_ndarray(format="rgba") for frame in container.decode(video=0)]
    masks = clip()[1]
    assert len(shown) == FRAMES and all((shown[t][..., 3][masks[t]] > 200).mean() > 0.9 for t in range(FRAMES))
    assert cv2.imread(str(written[1])).shape == (*SIZE, 3)
    with pytest.raises(UserError, match="is there already: --overwrite it"):
        take_apart(folder / "frames", folder / "masks", out, config=few)


def test_mistakes_in_one_sentence(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    empty = tmp_path / "empty"
    empty.mkdir()
    for t in range(FRAMES):
        cv2.imwrite(str(empty / f"{t:05d}.png"), np.zeros(SIZE, np.uint8))
    few = tmp_path / "few"
    few.mkdir()
    cv2.imwrite(str(few / "00000.png"), np.ones(SIZE, np.uint8))
    for masks, message in (
        (empty, "have no object"),
        (few, "has 1 label map (PNG) for 8 frames"),
        (tmp_path / "none", "has no label map"),
    ):
        words = ["matte", str(folder / "frames"), "--masks", str(masks), "--layers", "--out", str(tmp_path / "out")]
        assert main(words) == 2
        assert message in " ".join(capsys.readouterr().err.split()), message
    assert not (tmp_path / "out").exists(), "nothing was begun"
