"""Videos are followed from the command line to the files, and a run that is interrupted resumes."""

from __future__ import annotations

import csv
import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import Spots, spots_info

from eachmask.batch.options import BatchOptions
from eachmask.batch.track import Tracked, TrackOptions, track
from eachmask.batch.track_files import _mots_rows
from eachmask.cli import main
from eachmask.inference.predictor import Predictor
from eachmask.structures import RLE, Instances, UserError

NUM = 6


def predictor() -> Predictor:
    return Predictor(Spots(), spots_info(), device="cpu", precision="fp32", optimize=False)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Two bright squares that cross the image, and their numbers."""
    for name in ("clip", "targets"):
        (tmp_path / name).mkdir()
    for t in range(NUM):
        labels = np.zeros((60, 90), np.uint8)
        labels[5:15, 5 + 4 * t : 15 + 4 * t], labels[35:49, 60 - 4 * t : 74 - 4 * t] = 3, 7
        Image.fromarray((labels > 0).astype(np.uint8) * 230).save(tmp_path / "clip" / f"{t:05d}.png")
        Image.fromarray(labels).save(tmp_path / "targets" / f"{t:05d}.png")
    return tmp_path / "clip"


def run(clip: Path, out: Path, **changes: object) -> Tracked:
    return track(predictor(), clip, out, TrackOptions(save=("davis", "mots")), **changes)  # type: ignore[arg-type]


def tree(folder: Path) -> dict[str, bytes]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and ".journal" not in p.parts)
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_all_files_say_the_same(clip, tmp_path):
    done = run(clip, tmp_path / "out")
    assert done.frames == NUM and sorted(done.tracks) == [1, 2] and all(t.frames == NUM for t in done.tracks.values())
    with open(tmp_path / "out/tracks.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * NUM and {row["track"] for row in rows} == {"1", "2"}
    assert float(rows[-1]["seconds"]) == pytest.approx((NUM - 1) / 25)
    said = json.loads((tmp_path / "out/tracks.json").read_text())
    assert said["videos"][0]["length"] == NUM and len(said["annotations"]) == 2
    for one in said["annotations"]:
        areas = [int(RLE.from_coco([s]).area()[0]) for s in one["segmentations"]]
        assert areas == [int(row["area"]) for row in rows if row["track"] == str(one["id"])]
    labels = np.array(Image.open(tmp_path / "out/davis/00003.png"))
    assert {int(k): int((labels == k).sum()) for k in (1, 2)} == {
        int(row["track"]): int(row["area"]) for row in rows if row["frame"] == "3"
    }
    lines = [line.split(" ") for line in (tmp_path / "out/mots.txt").read_text().splitlines()]
    assert len(lines) == 2 * NUM and all(line[3:5] == ["60", "90"] for line in lines)
    mask = RLE.from_coco([{"size": [60, 90], "counts": lines[-1][5]}])
    assert int(mask.area()[0]) in {int(row["area"]) for row in rows if row["frame"] == str(NUM - 1)}


def test_an_interrupted_run_resumes(clip, tmp_path):
    whole = run(clip, tmp_path / "whole")
    seen = 0

    def stop() -> None:
        nonlocal seen
        seen += 1
        if seen == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(clip, tmp_path / "cut", on_frame=stop)
    done = run(clip, tmp_path / "cut")
    assert done.resumed == 4 and whole.resumed == 0 and tree(tmp_path / "cut") == tree(tmp_path / "whole")
    assert run(clip, tmp_path / "cut").resumed == NUM


@pytest.mark.parametrize("key", ["height", "seconds", "objects", "labels", "looks"])
@pytest.mark.parametrize("value", ["text", None, [[1], [2, 3]], {"a": []}, [[math.nan]], [{"segmentation": []}]])
def test_a_record_of_the_wrong_kind_is_one_sentence(clip, tmp_path, key, value):
    """With the right checksum, as somebody's script leaves it."""
    run(clip, tmp_path / "out")
    path = tmp_path / "out/.journal/records.jsonl"
    lines = path.read_bytes().splitlines()
    halves = [json.loads(half) for half in lines[-1].split(b"\t")[1:]]
    next(half for half in halves if key in half)[key] = value
    text = b"\t".join(json.dumps(half).encode() for half in halves)
    path.write_bytes(b"\n".join([*lines[:-1], b"%08x\t%s" % (zlib.crc32(text), text), b""]))
    with pytest.raises(UserError, match=r"damaged: --overwrite"):
        run(clip, tmp_path / "out")


def test_nonsense_is_one_sentence(clip, tmp_path):
    with pytest.raises(UserError, match="davis, mots, overlay"):
        track(predictor(), clip, tmp_path / "a", TrackOptions(save=("gif",)))
    with pytest.raises(UserError, match="--low"):
        track(predictor(), clip, tmp_path / "a", TrackOptions(low=0.9))
    with pytest.raises(UserError, match="class"):
        track(predictor(), clip, tmp_path / "a", TrackOptions(BatchOptions(classes=("horse",))))
    Image.new("L", (20, 20)).save(clip / "00009.png")
    with pytest.raises(UserError, match="frame 6 of .*clip is 20 x 20 pixels and the first one 90 x 60: frames"):
        track(predictor(), clip, tmp_path / "a")


def test_the_command_measures(clip, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("eachmask.inference.load.load", lambda *a, **k: predictor())
    out, targets = tmp_path / "out", tmp_path / "targets"
    assert main(["track", str(clip), "--out", str(out), "--targets", str(targets)]) == 0
    said = dict(line.split() for line in capsys.readouterr().out.splitlines() if len(line.split()) == 2)
    assert all(float(said[name]) == 1 for name in ("hota", "idf1", "motsa", "smotsa", "ap", "J&F-Mean"))
    (targets / "00002.png").unlink()
    assert main(["track", str(clip), "--out", str(out), "--targets", str(targets)]) == 2
    assert "5 label maps" in capsys.readouterr().err
    for wrong in (["--iou", "2"], ["--gap", "-1"], ["--truth", str(tmp_path / "no")]):
        assert main(["track", str(clip), "--out", str(out), *wrong]) == 2


def test_the_overlay_keeps_times(clip, tmp_path):
    pytest.importorskip("av")
    from eachmask.data.images.video import frames_of

    track(predictor(), clip, tmp_path / "out", TrackOptions(save=("overlay",)))
    frames = list(frames_of(tmp_path / "out/overlay.mp4"))
    assert [f.seconds for f in frames] == pytest.approx([t / 25 for t in range(NUM)], abs=1e-3)
    assert frames[0].image.shape == (60, 90, 3) and frames[0].image[8:12, 8:12].std(axis=2).mean() > 10, "colored"


def test_a_frame_without_background_has_all_its_objects_in_mots() -> None:
    labels = np.array([[1, 1, 2], [1, 1, 2]], np.int32)
    masks = RLE.from_label_map(labels)
    found = Instances(
        (2, 3), torch.from_numpy(masks.boxes()), masks, torch.tensor([0, 1]), track_ids=torch.tensor([5, 7])
    )  # fmt: skip
    rows = [row.split()[:5] for row in _mots_rows(4, found, labels)]
    assert rows == [["4", "1005", "1", "2", "3"], ["4", "2007", "2", "2", "3"]]


def test_only_what_moves_is_followed(tmp_path):
    """Of a square that moves before a scene and one that stands in it, --moving leaves the first."""
    (tmp_path / "clip").mkdir()
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 60, (30, 45, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    for t in range(4):
        image = scene.copy()
        image[20:44, 20 + 8 * t : 44 + 8 * t] = image[80:104, 120:144] = 230
        Image.fromarray(image).save(tmp_path / "clip" / f"{t:05d}.png")
    every, moving = (
        track(predictor(), tmp_path / "clip", tmp_path / f"out{moving}", TrackOptions(moving=moving))
        for moving in (False, True)
    )
    assert len(every.tracks) == 2 and len(moving.tracks) == 1
    rows = (tmp_path / "outTrue/tracks.csv").read_text().splitlines()[1:]
    assert len(rows) == 4 and all(float(row.split(",")[6]) < 70 for row in rows), "also in the first frame"


def test_frames_without_objects(clip, tmp_path):
    """Also in the middle of a track, and as the first ones."""
    for t in (0, 3):
        Image.new("L", (90, 60)).save(clip / f"{t:05d}.png")
    done = run(clip, tmp_path / "out")
    assert done.frames == NUM and {k: t.frames for k, t in done.tracks.items()} == {1: NUM - 2, 2: NUM - 2}
    assert not np.array(Image.open(tmp_path / "out/davis/00003.png")).any()
    smooth = track(predictor(), clip, tmp_path / "smooth", TrackOptions(save=("davis",), smooth=True))
    assert smooth.frames == NUM and np.array(Image.open(tmp_path / "smooth/davis/00003.png")).any(), "the gap is filled"


def test_a_video_that_is_damaged_further_on(clip, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("eachmask.inference.load.load", lambda *a, **k: predictor())
    (clip / "00004.png").write_bytes(b"damaged")
    words = ["track", str(clip), "--out", str(tmp_path / "out")]
    assert main(words) == 2 and "--frames 4 takes what comes before it" in capsys.readouterr().err
    assert main([*words, "--frames", "4"]) == 0
    with open(tmp_path / "out/tracks.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 2 * 4


def test_no_frame_of_a_longer_run_is_left(clip, tmp_path):
    run(clip, tmp_path / "out")
    (clip / f"{NUM - 1:05d}.png").unlink()
    run(clip, tmp_path / "out", overwrite=True)
    assert len(list((tmp_path / "out/davis").glob("*.png"))) == NUM - 1


class Camera:
    """A device that shows the clip, and Ctrl + C after some frames."""

    def __init__(self, files, most):
        self.frames = [np.array(Image.open(path).convert("RGB")) for path in files][:most]

    def isOpened(self):
        return True

    def set(self, *_):
        return True

    def read(self):
        if not self.frames:
            raise KeyboardInterrupt
        return True, self.frames.pop(0)

    def release(self):
        pass


def test_a_camera_is_followed_until_it_is_stopped(clip, tmp_path, monkeypatch, capsys):
    pytest.importorskip("av")
    files = sorted(clip.glob("*.png"))
    monkeypatch.setattr("eachmask.inference.load.load", lambda *a, **k: predictor())
    monkeypatch.setattr("cv2.VideoCapture", lambda _: Camera(files, 5))
    words = ["track", "webcam:0", "--out", str(tmp_path / "out"), "--save", "overlay", "davis"]
    assert main(words) == 0
    num = len(list((tmp_path / "out/davis").glob("*.png")))
    assert num in (4, 5), "the last frame may be cut off"
    with open(tmp_path / "out/tracks.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 2 * num
    assert (tmp_path / "out/overlay.mp4").stat().st_size > 0
    assert main(words) == 2 and "does not come again" in capsys.readouterr().err
    assert main([*words, "--overwrite", "--frames", "3"]) == 0
    assert len(list((tmp_path / "out/davis").glob("*.png"))) == 3
    monkeypatch.setattr("cv2.VideoCapture", lambda _: Camera(files, 0))
    assert main([*words, "--overwrite"]) == 2 and "stopped before its first frame" in capsys.readouterr().err
    assert main([*words, "--frames", "0"]) == 2
