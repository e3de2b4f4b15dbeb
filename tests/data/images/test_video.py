"""Videos of every kind give their frames, upright and at their time."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from eachmask.data.images.video import frames_of
from eachmask.structures import UserError

SECONDS = (0.0, 0.1, 0.5, 0.6)


def images() -> list[np.ndarray]:
    """A bright left upper corner, darker from frame to frame."""
    result = []
    for t in range(4):
        image = np.full((48, 64, 3), 20, np.uint8)
        image[:24, :32] = 240 - 40 * t
        result.append(image)
    return result


def write_video(path: Path, codec: str = "mpeg4") -> Path:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for seconds, image in zip(SECONDS, images(), strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(seconds * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def corner(image: np.ndarray) -> int:
    return int(image[4:20, 4:28].mean())


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_frames_keep_their_time(tmp_path, suffix):
    frames = list(frames_of(write_video(tmp_path / f"v{suffix}")))
    assert [f.number for f in frames] == [0, 1, 2, 3]
    assert [f.seconds for f in frames] == pytest.approx(SECONDS, abs=2e-3)
    assert [corner(f.image) for f in frames] == pytest.approx([240, 200, 160, 120], abs=8)
    assert frames[0].image.shape == (48, 64, 3) and frames[0].image[40, 60].max() < 40


def test_a_camera_held_askew(tmp_path):
    """The matrix of the track says: turned by 90 degrees clockwise to be shown."""
    path = write_video(tmp_path / "v.mp4")
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    one = 1 << 16
    data[matrix : matrix + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 48 * one, 0, 1 << 30)
    path.write_bytes(data)
    image = next(iter(frames_of(path))).image
    assert image.shape == (64, 48, 3)
    assert image[8:24, 30:44].mean() > 200 and image[8:24, 4:18].mean() < 60, "the left upper corner is right now"


def test_folders_animations_and_pages(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    pictures = [Image.fromarray(image) for image in images()]
    for t, picture in enumerate(pictures):
        picture.save(folder / f"{t:05d}.png")
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=[100, 300, 100, 100])
    pictures[0].save(tmp_path / "a.webp", save_all=True, append_images=pictures[1:], duration=50, lossless=True)
    tifffile.imwrite(tmp_path / "a.tif", np.stack(images())[..., 0], photometric="minisblack")
    for source in (folder, str(folder / "*.png"), tmp_path / "a.gif", tmp_path / "a.webp", tmp_path / "a.tif"):
        frames = list(frames_of(source))
        assert [corner(f.image) for f in frames] == pytest.approx([240, 200, 160, 120], abs=2), source
    assert [f.seconds for f in frames_of(tmp_path / "a.gif")] == pytest.approx([0, 0.1, 0.4, 0.5])
    assert [f.seconds for f in frames_of(folder)] == pytest.approx([0, 0.04, 0.08, 0.12])


def test_one_frame_is_read_at_a_time(tmp_path):
    frames = frames_of(write_video(tmp_path / "v.mp4"))
    assert next(frames).number == 0 and next(frames).number == 1


def test_what_is_no_video_is_said_in_a_sentence(tmp_path):
    pytest.importorskip("av")
    broken, empty = tmp_path / "broken.mp4", tmp_path / "frames"
    broken.write_bytes(b"no video at all" * 50)
    empty.mkdir()
    for source, word in ((broken, "damaged"), (tmp_path / "no.mp4", "does not exist"), (empty, "no images")):
        with pytest.raises(UserError, match=word):
            list(frames_of(source))


class Camera:
    """A device with three frames."""

    def __init__(self, name):
        self.name, self.frames = name, images()[:3]

    def isOpened(self):
        return self.name == 0

    def set(self, *_):
        return True

    def read(self):
        return (True, self.frames.pop(0)[..., ::-1]) if self.frames else (False, None)

    def release(self):
        self.frames = []


def test_a_camera(tmp_path, monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    monkeypatch.chdir(tmp_path)
    for name in ("webcam:0", "0"):
        frames = list(frames_of(name))
        assert [corner(frame.image) for frame in frames] == [240, 200, 160] and frames[0].seconds < 1
    with pytest.raises(UserError, match="camera 3 is not there"):
        next(frames_of("webcam:3"))
    (tmp_path / "0").mkdir()
    with pytest.raises(UserError, match="no images"):
        next(frames_of("0"))


def test_a_device_by_its_name(tmp_path):
    """A file in place of /dev/video0: OpenCV opens both by their names."""
    path = tmp_path / "device.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no MJPG")
    for image in images():
        writer.write(np.ascontiguousarray(image[..., ::-1]))
    writer.release()
    frames = list(frames_of(f"webcam:{path}"))
    assert [corner(frame.image) for frame in frames] == pytest.approx([240, 200, 160, 120], abs=8)
    with pytest.raises(UserError, match="camera /dev/none is not there"):
        next(frames_of("webcam:/dev/none"))
