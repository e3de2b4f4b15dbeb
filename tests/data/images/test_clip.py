"""Frames of videos and animations in any order are those that are read one after the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eachmask.data.images.clip import clip, is_clip
from eachmask.data.images.video import frames_of
from eachmask.structures import UserError

NUMBER, ORDER = 30, (7, 8, 3, 29, 0, 20, 1, 28)


def images() -> list[np.ndarray]:
    return [np.full((48, 64, 3), 8 * t, np.uint8) for t in range(NUMBER)]


def written(path):
    if path.suffix in (".gif", ".webp", ".png"):
        first, *others = [Image.fromarray(image) for image in images()]
        first.save(path, save_all=True, append_images=others, duration=40)
        return path
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, options={"bf": "2"})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 9
        for image in images():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".gif", ".webp", ".png"])
def test_any_frame_is_that_of_its_place(tmp_path, suffix):
    path = written(tmp_path / f"v{suffix}")
    one_by_one, opened = list(frames_of(path)), clip(path)
    assert is_clip(path) and len(opened) == len(one_by_one) == NUMBER and clip(path) is opened
    for number in ORDER:
        np.testing.assert_array_equal(opened.read(number), one_by_one[number].image, err_msg=str(number))
    assert opened.seconds == pytest.approx([frame.seconds for frame in one_by_one], abs=2e-3)
    with pytest.raises(UserError, match="its frames are 1 to 30"):
        opened.read(NUMBER)


def test_what_is_no_video_is_said(tmp_path):
    (tmp_path / "v.gif").write_bytes(b"GIF89a and no more")
    with pytest.raises(UserError, match="damaged"):
        clip(tmp_path / "v.gif")
    with pytest.raises(UserError, match="does not exist"):
        clip(tmp_path / "w.gif")
    Image.new("RGB", (8, 8)).save(tmp_path / "still.webp")
    assert not is_clip(tmp_path / "still.webp") and not is_clip(tmp_path / "none.webp")


def test_a_damaged_video_is_said(tmp_path):
    pytest.importorskip("av")
    (tmp_path / "v.mp4").write_bytes(b"no video at all")
    with pytest.raises(UserError, match="damaged"):
        clip(tmp_path / "v.mp4")


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_an_animation_cut_off_anywhere_is_frames_or_a_sentence(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)) for _ in range(3)]
    path, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    whole, refused = path.read_bytes(), 0
    for length in range(12, len(whole), max(1, len(whole) // 97)):
        cut.write_bytes(whole[:length])
        for read in (lambda: list(frames_of(cut)), lambda: [clip(cut).read(i) for i in range(3)]):
            try:
                read()
            except UserError as error:
                assert str(cut) in str(error)
                refused += 1
    assert refused > 20
