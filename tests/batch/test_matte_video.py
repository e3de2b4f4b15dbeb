"""Videos are cut out from the command line to the files: frames keep their times, transparency its values."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stand_in_pymatting import stand_in  # noqa: F401

from eachmask import models
from eachmask.batch.matte_video import matte_video
from eachmask.batch.movie import Movie
from eachmask.cli import main
from eachmask.data.formats.mattes import matte as read_matte
from eachmask.data.images.video import frames_of
from eachmask.files.png import png
from eachmask.inference.load import load
from eachmask.inference.matting import MattePredictor
from eachmask.inference.video_predictor import VideoPredictor
from eachmask.structures import Category, Preprocess, UserError
from eachmask.weights.file import save_model
from eachmask.weights.header import ModelInfo

av = pytest.importorskip("av", reason="needs PyAV")

SIZE, NUM = (48, 64), 5
TIMES = [0.0, 0.04, 0.1, 0.12, 0.3]


def scene(number: int) -> np.ndarray:
    """A bright square that moves over a dark gradient."""
    image = np.tile(np.linspace(20, 90, SIZE[1]).astype(np.uint8)[None, :, None], (SIZE[0], 1, 3))
    image[12:36, 8 + 4 * number : 30 + 4 * number] = (220, 160, 60)
    return image


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of uneven times, another background, and a network that remembers."""
    path = tmp_path_factory.mktemp("video")
    for name, image in (("clip.mp4", scene), ("beach.mp4", lambda n: np.full((*SIZE, 3), 40 + 60 * n, np.uint8))):
        movie = Movie(path / name)
        for number, seconds in enumerate(TIMES[: NUM if name == "clip.mp4" else 2]):
            movie.add(seconds, image(number))
        movie.close()
    torch.manual_seed(0)
    model = models.variant("robust_video_matting_mobilenetv3")(side=64).eval()
    model.project_mat.conv.weight.data *= 60  # that its mattes are not all alike
    preprocess = Preprocess(mean=(0, 0, 0), std=(1, 1, 1), short_side=None, long_side=None, divisor=1)
    info = ModelInfo("robust_video_matting_mobilenetv3", {"side": 64}, preprocess, (Category(1, "foreground"),))
    save_model(path / "rvm.safetensors", model, info)
    return path


def words(folder: Path, out: Path, *more: str) -> list[str]:
    return ["matte", str(folder / "clip.mp4"), "--model", str(folder / "rvm.safetensors"), "--device", "cpu",
            "--precision", "fp32", "--out", str(out), *more]  # fmt: skip


def layers(path: Path) -> list[np.ndarray]:
    """The frames with their transparency."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        if stream.codec_context.name == "vp9":  # FFmpeg's own decoder knows no transparency
            decoder: Any = av.CodecContext.create("libvpx-vp9", "r")
            packets = [*container.demux(stream)]
            return [f.to_ndarray(format="rgba") for p in packets if p.size for f in decoder.decode(p)]
        return [frame.to_ndarray(format="rgba") for frame in container.decode(stream)]


def test_from_a_video_to_movies(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    kinds = ["--save", "rgba", "webm", "alpha", "composite", "--onto", str(folder / "beach.mp4")]
    assert main(words(folder, tmp_path / "out", *kinds)) == 0
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {"cutout.mov", "cutout.webm", "composite.mp4", "alpha"}
    assert [frame.seconds for frame in frames_of(out / "composite.mp4")] == pytest.approx(TIMES, abs=1e-3)
    alphas = [read_matte(path, (), {}).alpha.numpy() for path in sorted((out / "alpha").glob("*.png"))]
    assert len(alphas) == NUM and alphas[0].shape == SIZE and np.ptp(alphas[0]) > 0.1
    seen, mixed = layers(out / "cutout.mov"), list(frames_of(out / "composite.mp4"))
    for number, alpha in enumerate(alphas):
        assert np.abs(seen[number][..., 3] / 255 - alpha).mean() < 0.01, "ProRes keeps transparency"
        a = alpha[..., None]
        expected = a * seen[number][..., :3] + (1 - a) * (40 + 60 * (number % 2))
        assert np.abs(mixed[number].image - expected).mean() < 6, "I = alpha F + (1 - alpha) B, but for the codec"
    transparent = layers(out / "cutout.webm")
    assert len(transparent) == NUM
    assert np.abs(transparent[0][..., 3] / 255 - alphas[0]).mean() < 0.03, "VP9 too"


def test_the_network_remembers(folder: Path, tmp_path: Path):
    predictor = MattePredictor(load(folder / "rvm.safetensors", device="cpu", precision="fp32"))
    matte_video(predictor, folder / "clip.mp4", tmp_path, ["alpha"])
    frames = [frame.image for frame in frames_of(folder / "clip.mp4")]
    remembered = list(VideoPredictor(predictor).track(frames))
    alone = predictor.predict(frames[-1])
    written = read_matte(tmp_path / "alpha" / f"{NUM - 1:05d}.png", (), {}).alpha
    assert (written - remembered[-1].alpha).abs().max() < 1e-4 < (written - alone.alpha).abs().max()


@pytest.fixture()
def masks(tmp_path: Path) -> Path:
    """Label maps of the square; in the last frame nothing is marked."""
    for number in range(NUM):
        labels = np.zeros(SIZE, np.uint8)
        labels[12:36, 8 + 4 * number : 30 + 4 * number] = 2 * (number < NUM - 1)
        (tmp_path / "masks").mkdir(exist_ok=True)
        (tmp_path / "masks" / f"{number:05d}.png").write_bytes(png(labels))
    return tmp_path / "masks"


@pytest.mark.usefixtures("stand_in")
def test_what_is_marked_is_cut_out(folder: Path, masks: Path, tmp_path: Path):
    out = tmp_path / "out"
    words = ["matte", str(folder / "clip.mp4"), "--masks", str(masks), "--save", "alpha", "--device", "cpu"]
    assert main([*words, "--out", str(out)]) == 0
    alphas = [read_matte(path, (), {}).alpha.numpy() for path in sorted((out / "alpha").glob("*.png"))]
    assert len(alphas) == NUM and not alphas[-1].any()
    for number, alpha in enumerate(alphas[:-1]):
        square = np.zeros(SIZE)
        square[12:36, 8 + 4 * number : 30 + 4 * number] = 1
        assert np.abs(alpha - square).mean() < 0.02


@pytest.mark.usefixtures("stand_in")
def test_masks_that_do_not_fit(folder: Path, masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = ["matte", str(folder / "clip.mp4"), "--save", "rgba", "--device", "cpu", "--out", str(tmp_path / "out")]
    for more, message in (
        (["--masks", str(tmp_path)], "has no label map"),
        (["--masks", str(masks), "--model", "objects"], "leave out --model"),
        (["--layers"], "give --masks"),
    ):
        assert main([*words, *more]) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    (masks / "00004.png").unlink()
    assert main([*words, "--masks", str(masks)]) == 2
    assert "4 label maps in --masks, and more frames" in " ".join(capsys.readouterr().err.split())
    (masks / "00003.png").write_bytes(png(np.ones((9, 9), np.uint8)))
    assert main([*words, "--masks", str(masks)]) == 2
    assert "has 9 x 9 px and the frame 64 x 48" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out" / "cutout.mov").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--save", "labels"], "of a video --save knows rgba, webm, composite, alpha"),
        (["--save", "composite"], "a composite needs a background: give --onto"),
        (["--trimap", "clip.png"], "--trimap is of one image, not of a video"),
        (["--on", "local"], "--on shares out images"),
        (["--layers", "--on", "local"], "--on shares out images"),
    ],
)
def test_mistakes_in_one_sentence(more, message, folder: Path, tmp_path: Path, capsys):
    assert main(words(folder, tmp_path / "out", *more)) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_earlier_results_stay(folder: Path, tmp_path: Path):
    predictor = MattePredictor(load(folder / "rvm.safetensors", device="cpu", precision="fp32"))
    matte_video(predictor, folder / "clip.mp4", tmp_path, ["rgba"])
    before = (tmp_path / "cutout.mov").read_bytes()
    with pytest.raises(UserError, match="is there already: --overwrite it"):
        matte_video(predictor, folder / "clip.mp4", tmp_path, ["rgba"])
    assert (tmp_path / "cutout.mov").read_bytes() == before
    matte_video(predictor, folder / "clip.mp4", tmp_path, ["rgba"], overwrite=True)


def test_a_broken_video_leaves_no_movie(folder: Path, tmp_path: Path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes((folder / "clip.mp4").read_bytes()[:300])
    predictor = MattePredictor(load(folder / "rvm.safetensors", device="cpu", precision="fp32"))
    with pytest.raises(UserError, match="is damaged"):
        matte_video(predictor, broken, tmp_path / "out", ["rgba"])
    assert not (tmp_path / "out" / "cutout.mov").exists()


def test_times_are_kept(tmp_path: Path):
    movie = Movie(tmp_path / "a.mov")
    for seconds in TIMES:
        movie.add(seconds, np.zeros((*SIZE, 4), np.uint8))
    movie.close()
    assert [Fraction(frame.seconds).limit_denominator(1000) for frame in frames_of(tmp_path / "a.mov")] == [
        Fraction(seconds).limit_denominator(1000) for seconds in TIMES
    ]
