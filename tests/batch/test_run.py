from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from made_scenes import read_one
from PIL import Image
from tiny_model import Spots, spots_image, spots_info

from eachmask.batch.options import BatchOptions
from eachmask.batch.results import Summary
from eachmask.batch.run import Outcome, run
from eachmask.cli import main
from eachmask.cli.predict import _say
from eachmask.data.formats.coco_results import read_results
from eachmask.data.images.inputs import find_inputs
from eachmask.inference.predictor import Predictor
from eachmask.structures import DecodeOptions, Instances, UserError

EVERYTHING = BatchOptions(save=("labels", "crops", "polygons", "csv", "geojson"), batch=3)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(Spots(), spots_info(), device="cpu", precision="fp32")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for i in range(7):
        Image.fromarray(spots_image(i, 60 + 8 * (i % 2), 90)).save(folder / f"{'sub/' if i > 4 else ''}p{i % 5}.png")
    return folder


def _run(predictor: Predictor, images: Path, out: Path, options: BatchOptions = EVERYTHING, **more: object) -> Summary:
    return run(predictor, find_inputs([images], exclude=out), out, options, **more)  # type: ignore[arg-type]


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_only_the_thread_that_predicts_computes(images: Path, tmp_path: Path) -> None:
    """A second thread with torch at work makes the first one slower by half (benchmarks/folder.py)."""
    predictor = Predictor(Spots(), spots_info(), device="cpu", precision="fp32")
    threads = []

    def packed(found: Instances) -> Instances:
        threads.append(threading.current_thread())
        return pack(found)

    pack, predictor.task = predictor.task.packed, replace(predictor.task, packed=packed)
    assert _run(predictor, images, tmp_path / "out").done == 7
    assert threads == [threading.current_thread()] * 7


def test_results_say_what_the_predictor_says(predictor: Predictor, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = _run(predictor, images, out)
    assert (summary.images, summary.done, summary.failed, summary.skipped) == (7, 7, 0, 0)
    content = json.loads((out / "predictions.json").read_text())
    assert [c["id"] for c in content["categories"]] == [3, 7]
    split = read_one(out / "predictions.json", images)
    predictions = read_results(out / "predictions.json", split).instances
    total = 0
    for i, sample in enumerate(split):
        expected = predictor.predict(sample.path)
        total += len(expected)
        assert predictions[i].masks.to_coco() == expected.masks.to_rle().to_coco()
        assert predictions[i].scores.tolist() == pytest.approx(expected.scores.tolist(), abs=1e-5)
        stem = str(sample.path.relative_to(images).with_suffix(""))
        labels = cv2.imread(str(out / f"labels/{stem}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(labels, expected.masks.to_label_map())
        assert len(list((out / "crops" / stem).iterdir())) == len(expected)
        assert len(json.loads((out / f"geojson/{stem}.geojson").read_text())["features"]) == len(expected)
        assert len(json.loads((out / f"polygons/{stem}.json").read_text())) == len(expected)
        assert cv2.imread(str(out / f"overlays/{stem}.jpg")).shape == sample.image.shape
    assert summary.objects == total == sum(summary.objects_per_class.values())
    rows = (out / "instances.csv").read_text().splitlines()
    assert len(rows) == total + 1
    each = [(out / f"csv/{p.relative_to(images).with_suffix('.csv')}") for p in sorted(images.rglob("*.png"))]
    assert [line for path in each for line in path.read_text().splitlines()[1:]] == rows[1:]
    assert json.loads((out / "summary.json").read_text())["done"] == 7


def test_pycocotools_reads_the_predictions(predictor: Predictor, images: Path, tmp_path: Path) -> None:
    coco_tools = pytest.importorskip("pycocotools.coco")
    _run(predictor, images, tmp_path / "out", BatchOptions())
    with contextlib.redirect_stdout(io.StringIO()):
        gt = coco_tools.COCO(tmp_path / "out/predictions.json")
        for annotation in gt.anns.values():
            assert gt.annToMask(annotation).sum() == annotation["area"]
        found = gt.loadRes(gt.dataset["annotations"])
    assert len(found.anns) == len(gt.anns) > 0


@pytest.fixture
def trouble(images: Path) -> Path:
    (images / "a-empty.png").write_bytes(b"")
    (images / "p1-text.jpg").write_text("no image")
    cut = (images / "p0.png").read_bytes()
    (images / "p2-cut.png").write_bytes(cut[: len(cut) // 2])
    Image.new("1", (3000, 3000)).save(images / "p3-bomb.png")
    (images / "notes.txt").write_text("not asked for")
    return images


def test_bad_files_are_named_and_stop_nothing(predictor: Predictor, trouble: Path, tmp_path: Path) -> None:
    outcomes: list[Outcome] = []
    options = BatchOptions(batch=2, max_pixels=1_000_000)
    inputs = find_inputs([trouble, trouble / "gone.png"])
    summary = run(predictor, inputs, tmp_path / "out", options, listener=outcomes.append)
    assert (summary.images, summary.done, summary.failed, summary.skipped) == (12, 7, 5, 1)
    reasons = {f.file: f.reason for f in summary.failures}
    assert list(reasons) == ["a-empty.png", "p1-text.jpg", "p2-cut.png", "p3-bomb.png", "gone.png"]
    for (name, reason), words in zip(
        reasons.items(), ("is empty", "not an image", "damaged", "9 megapixels", "does not exist"), strict=True
    ):
        assert reason.startswith(name) and words in reason and "\n" not in reason and str(tmp_path) not in reason
    assert len(outcomes) == 12 and sum(bool(o.problem) for o in outcomes) == 5
    good = [i for i in range(12) if inputs.sources[i].name not in reasons]
    ids = [i["id"] for i in json.loads((tmp_path / "out/predictions.json").read_text())["images"]]
    assert ids == [i + 1 for i in good]


def test_tiles_of_a_large_image_are_told(predictor: Predictor, images: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    one = find_inputs([images / "p0.png"])
    run(predictor, one, tmp_path / "a", BatchOptions(tile=48), on_tile=lambda *tile: told.append(tile))
    assert told == [(number, len(told)) for number in range(1, len(told) + 1)] and len(told) > 3


def test_a_failing_model_loses_only_the_culprit(predictor: Predictor, images: Path, tmp_path: Path) -> None:
    class Sometimes(Spots):
        def decode(self, raw, options):  # type: ignore[no-untyped-def]
            if any(height == 52 for height, _ in raw.sizes):
                raise RuntimeError("cannot\ndo 52 rows")
            return super().decode(raw, options)

    Image.fromarray(spots_image(0, 52, 90)).save(images / "p2b.png")
    failing = Predictor(Sometimes(), spots_info(), device="cpu", precision="fp32", optimize=False)
    summary = _run(failing, images, tmp_path / "out", BatchOptions(batch=4))
    assert [f.file for f in summary.failures] == ["p2b.png"] and summary.done == 7
    assert summary.failures[0].reason == "p2b.png could not be predicted (RuntimeError: cannot do 52 rows)"


@pytest.mark.parametrize("words", ["", "DefaultCPUAllocator: can't allocate memory", "CUDA out of memory"])
def test_too_little_memory_is_named_with_its_remedy(images: Path, tmp_path: Path, words: str) -> None:
    class Greedy(Spots):
        def decode(self, raw, options):  # type: ignore[no-untyped-def]
            if any(height == 52 for height, _ in raw.sizes):
                if words:
                    raise RuntimeError(words)
                torch.empty(2**60, dtype=torch.uint8)  # more than any machine has
            return super().decode(raw, options)

    Image.fromarray(spots_image(0, 52, 90)).save(images / "p2b.png")
    greedy = Predictor(Greedy(), spots_info(), device="cpu", precision="fp32", optimize=False)
    summary = _run(greedy, images, tmp_path / "out", BatchOptions(batch=4))
    remedy = "p2b.png needs more memory than there is: use --tile, a smaller --batch or another device"
    assert [f.reason for f in summary.failures] == [remedy] and summary.done == 7


def test_a_full_disk_stops_the_run(
    predictor: Predictor, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("eachmask.files.journal.Journal.write", full)
    (tmp_path / "out").mkdir()
    with pytest.raises((UserError, OSError), match="No space left"):
        _run(predictor, images, tmp_path / "out")


def test_pages_and_sub_folders_keep_apart(predictor: Predictor, tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        stack = np.stack([spots_image(i, num=4 + i)[..., 0] for i in range(2)]).astype(np.uint16) * 257
        tifffile.imwrite(tmp_path / folder / "s.tif", stack, photometric="minisblack")
    inputs = find_inputs([tmp_path / "x", tmp_path / "y"])
    summary = run(predictor, inputs, tmp_path / "out", BatchOptions(save=("labels",)))
    assert summary.done == 4
    assert sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.jpg")) == [
        f"overlays/{folder}/s_page{page}.jpg" for folder in "xy" for page in (1, 2)
    ]
    names = [i["file_name"] for i in json.loads((tmp_path / "out/predictions.json").read_text())["images"]]
    assert names == ["x/s.tif#page=1", "x/s.tif#page=2", "y/s.tif#page=1", "y/s.tif#page=2"]


def test_objects_that_a_label_map_lacks_are_counted(
    predictor: Predictor,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    alone = predictor.predict_arrays

    def doubled(*args: object, **kwargs: object) -> list[Instances]:
        return [Instances.cat([found, found]) for found in alone(*args, **kwargs)]

    monkeypatch.setattr(predictor, "predict_arrays", doubled)
    summary = _run(predictor, images, tmp_path / "out", BatchOptions(save=("labels",)))
    assert summary.objects == 2 * summary.hidden_in_label_maps > 0
    _say(summary, tmp_path / "out", "object")
    assert f"{summary.hidden_in_label_maps} of them hidden" in " ".join(capfd.readouterr().err.split())
    assert _run(predictor, images, tmp_path / "out", BatchOptions(save=("labels",))) == summary, "resumed"
    without = _run(predictor, images, tmp_path / "other", BatchOptions(save=("csv",)))
    assert without.hidden_in_label_maps == 0


def test_classes_and_thresholds(predictor: Predictor, images: Path, tmp_path: Path) -> None:
    summary = _run(predictor, images, tmp_path / "a", BatchOptions(classes=("SMALL spot",)))
    assert list(summary.objects_per_class) == ["small spot"]
    few = _run(predictor, images, tmp_path / "b", BatchOptions(decode=DecodeOptions(max_detections=1)))
    assert few.objects == 7
    both = BatchOptions(classes=("small spot",), decode=DecodeOptions(max_detections=2))
    best = _run(predictor, images, tmp_path / "d", both)
    assert list(best.objects_per_class) == ["small spot"]
    every = [predictor.predict(path).filter(classes=["small spot"]) for path in sorted(images.rglob("*.png"))]
    assert best.objects == sum(min(len(found), 2) for found in every) > 7
    with pytest.raises(UserError, match="no class 'cat'; its classes are <large> & spot, small spot"):
        _run(predictor, images, tmp_path / "c", BatchOptions(classes=("cat",)))
    assert not (tmp_path / "c").exists()


def test_a_class_may_be_named_by_the_one_above_it(predictor: Predictor, images: Path, tmp_path: Path) -> None:
    info = spots_info()
    large, small = info.categories
    family = Predictor(
        Spots(), replace(info, categories=(large, replace(small, parent="Tiny"))), device="cpu", precision="fp32"
    )
    assert list(_run(family, images, tmp_path / "a", BatchOptions(classes=("tiny",))).objects_per_class) == [small.name]


# Going on ---------------------------------------------------------------------------------------


def test_a_second_run_does_nothing_and_changes_nothing(
    predictor: Predictor, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    _run(predictor, images, out)
    before = _tree(out)
    monkeypatch.setattr(Predictor, "predict_arrays", None)
    outcomes: list[Outcome] = []
    summary = _run(predictor, images, out, listener=outcomes.append)
    assert summary.done == 7 and all(o.resumed for o in outcomes)
    assert _tree(out) == before


def test_other_options_are_refused(predictor: Predictor, images: Path, tmp_path: Path) -> None:
    _run(predictor, images, tmp_path / "out")
    with pytest.raises(UserError, match="--tile was 0 and is 64.*--overwrite"):
        _run(predictor, images, tmp_path / "out", BatchOptions(save=EVERYTHING.save, batch=3, tile=64))
    soft = replace(EVERYTHING, decode=DecodeOptions(suppression="soft", paste="torchvision"))
    with pytest.raises(UserError, match="--nms was not set and is soft.*--paste was accurate and is torchvision"):
        _run(predictor, images, tmp_path / "out", soft)
    summary = _run(predictor, images, tmp_path / "out", BatchOptions(overlays=False), overwrite=True)
    assert summary.done == 7
    assert not (tmp_path / "out/crops").exists() and not (tmp_path / "out/overlays").exists()


def test_results_beside_the_images(predictor: Predictor, images: Path) -> None:
    _run(predictor, images, images)
    before = _tree(images)
    assert _run(predictor, images, images).done == 7
    assert _tree(images) == before


def test_new_changed_and_removed_images(predictor: Predictor, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    _run(predictor, images, out)
    Image.fromarray(spots_image(77, num=1)).save(images / "p1.png")  # changed, fewer objects
    Image.fromarray(spots_image(50)).save(images / "a-new.png")
    (images / "p2.png").unlink()
    (images / "p3.jpg").write_bytes(b"")  # p3.png now needs its suffix in the output's name
    outcomes: list[Outcome] = []
    summary = _run(predictor, images, out, listener=outcomes.append)
    assert sorted(o.source.name for o in outcomes if not o.resumed) == ["a-new.png", "p1.png", "p3.jpg", "p3.png"]
    assert summary.done == 7 and summary.failed == 1
    assert len(list((out / "crops/p1").iterdir())) == 1
    assert (out / "overlays/p3.png.jpg").exists() and not (out / "overlays/p3.jpg").exists()
    fresh = tmp_path / "fresh"
    _run(predictor, images, fresh)
    for name in ("predictions.json", "instances.csv", "report.html", "summary.json"):
        assert (out / name).read_bytes() == (fresh / name).read_bytes(), name


def test_another_folder_with_the_same_names_sizes_and_times(predictor: Predictor, tmp_path: Path) -> None:
    """As two archives unpack raw images: nothing but the folder tells them apart."""
    for day, pixels in (("monday", spots_image(1)), ("tuesday", np.zeros_like(spots_image(1)))):
        (tmp_path / day).mkdir()
        Image.fromarray(pixels).save(tmp_path / day / "a.bmp")
        os.utime(tmp_path / day / "a.bmp", (315532800, 315532800))
    assert _run(predictor, tmp_path / "monday", tmp_path / "out").objects > 0
    assert _run(predictor, tmp_path / "tuesday", tmp_path / "out").objects == 0


SCRIPT = """
import sys
from tiny_model import Spots, spots_info
from eachmask.batch.options import BatchOptions
from eachmask.batch.run import run
from eachmask.data.images.inputs import find_inputs
from eachmask.inference.predictor import Predictor
predictor = Predictor(Spots(), spots_info(), device="cpu", precision="fp32")
options = BatchOptions(save=("labels", "crops", "polygons", "csv", "geojson"), batch=3)
run(predictor, find_inputs([sys.argv[1]]), sys.argv[2], options)
"""


def _start(images: Path, out: Path) -> subprocess.Popen[bytes]:
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(images), str(out)],
        env={**os.environ, "PYTHONPATH": paths, "SPOTS_SECONDS": "0.05", "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_twice_ends_like_an_uninterrupted_run(predictor: Predictor, tmp_path: Path) -> None:
    images = tmp_path / "in"
    images.mkdir()
    for i in range(20):
        Image.fromarray(spots_image(i, 60 + 8 * (i % 3), 90)).save(images / f"{i}.png")
    (images / "5-broken.png").write_bytes(b"")
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert _run(predictor, images, straight).failed == 1
    records = broken / ".journal/records.jsonl"
    done = 0
    for expected in (2, 9):  # killed while working, at two places
        process = _start(images, broken)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if records.exists() and records.read_bytes().count(b"\n") >= expected:
                break
            time.sleep(0.002)
        process.kill()
        assert process.wait(10) == -signal.SIGKILL
        assert not (broken / "summary.json").exists()
        now = records.read_bytes().count(b"\n")
        assert now >= max(done, expected)
        done = now
    with open(records, "ab") as handle:
        handle.write(b"0123abcd\t{torn")  # and what a crash within a write leaves behind
    first = records.read_bytes()[: records.read_bytes().rindex(b"\n") + 1]
    assert _run(predictor, images, broken).failed == 1
    assert records.read_bytes().startswith(first)  # what was done was not done again
    assert _tree(broken) == _tree(straight)


@pytest.mark.parametrize("lost", ["labels/p0.png", "overlays/sub/p0.jpg", "crops/p1"])
def test_what_has_vanished_is_done_again(predictor: Predictor, images: Path, tmp_path: Path, lost: str) -> None:
    out = tmp_path / "out"
    _run(predictor, images, out)
    before = _tree(out)
    path = out / lost
    if path.is_dir():
        next(path.iterdir()).unlink()
    else:
        path.unlink()
    outcomes: list[Outcome] = []
    _run(predictor, images, out, listener=outcomes.append)
    assert sum(not outcome.resumed for outcome in outcomes) == 1
    assert {k: v for k, v in _tree(out).items() if ".journal" not in k} == {
        k: v for k, v in before.items() if ".journal" not in k
    }


def test_images_that_are_not_asked_for_keep_their_results(predictor: Predictor, images: Path, tmp_path: Path) -> None:
    _run(predictor, images, tmp_path / "out")
    others = find_inputs([path for path in sorted(images.rglob("*.png")) if path.name != "p2.png"])
    with pytest.warns(UserWarning, match=r"not among these: p2\.png\..*--overwrite"):
        assert run(predictor, others, tmp_path / "out", EVERYTHING).done == 6
    assert (tmp_path / "out/overlays/p2.jpg").exists()


def test_results_of_deleted_images_are_removed(predictor: Predictor, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    _run(predictor, images, out)
    (images / "p2.png").unlink()
    with pytest.warns(UserWarning, match=r"removed the results of images that are gone: p2\.png"):
        assert _run(predictor, images, out).done == 6
    assert not [path for path in out.rglob("*") if path.stem == "p2"]
    before = _tree(out)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _run(predictor, images, out).done == 6
    assert _tree(out) == before


def test_a_damaged_journal_is_one_sentence(predictor: Predictor, images: Path, tmp_path: Path) -> None:
    _run(predictor, images, tmp_path / "out")
    records = tmp_path / "out/.journal/records.jsonl"
    lines = []
    for line in records.read_bytes().splitlines():
        head, _ = line.partition(b"\t")[2].split(b"\t")
        text = head + b'\t{"annotations": 3}'
        lines.append(b"%08x\t%s\n" % (zlib.crc32(text), text))
    records.write_bytes(b"".join(lines))
    with pytest.raises(UserError, match="journal is damaged: --overwrite to begin anew"):
        _run(predictor, images, tmp_path / "out")


# The command ------------------------------------------------------------------------------------


@pytest.fixture
def command(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eachmask.inference.load.load", lambda name, **_: predictor)
    monkeypatch.setattr("eachmask.cli.predict.check_before_loading", lambda *_, **__: None)  # its model has no file


def _call(*arguments: object) -> int:
    try:
        return main(["predict", *(str(a) for a in arguments)])
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.mark.usefixtures("command")
def test_exit_status(images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert _call(images, "--model", "spots", "--out", tmp_path / "a", "--save", "labels,csv", "--batch", 2) == 0
    output = capfd.readouterr()
    assert output.out.strip() == str(tmp_path / "a/report.html")
    assert "7 of 7 images done" in output.err
    assert (tmp_path / "a/labels/p0.png").exists() and (tmp_path / "a/csv/p0.csv").exists()
    (images / "zz.png").write_bytes(b"")
    assert _call(images, "--model", "spots", "--out", tmp_path / "b", "--no-overlays") == 1
    error = capfd.readouterr().err
    assert _call(images, "--model", "spots", "--out", tmp_path / "b", "--no-overlays", "--max-pixels", "inf") == 1
    assert "zz.png is empty (0 bytes)" in error and "1 failed" in error and "Traceback" not in error
    assert not (tmp_path / "b/overlays").exists()


@pytest.mark.usefixtures("command")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--save", "movies"], "--save knows labels, crops, polygons, csv, geojson, not 'movies'"),
        (["--classes", "cat"], "no class 'cat'"),
        (["--tile", "3"], "tile of 3"),
        (["--score", "7"], "score threshold"),
        (["--batch", "0"], "at least one image"),
        (["--max-pixels", "nan"], "--max-pixels must be at least 1, not nan"),
        (["--max-pixels", "-1"], "--max-pixels must be at least 1, not -1"),
    ],
)
def test_mistakes_are_one_sentence(
    images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert _call(images, "--model", "spots", "--out", tmp_path / "a", *arguments) == 2
    error = capfd.readouterr().err
    assert sentence in error and "Traceback" not in error


def test_missing_model_and_inputs(images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert _call(images, "--model", tmp_path / "no.safetensors", "--out", tmp_path / "a") == 2
    assert "no.safetensors does not exist" in capfd.readouterr().err
    assert _call(tmp_path / "none*.png", "--model", "spots", "--out", tmp_path / "a") == 2
    assert "nothing matches" in capfd.readouterr().err
    assert _call("", "--model", "spots", "--out", tmp_path / "a") == 2
    assert "one of the inputs is an empty name" in capfd.readouterr().err
    assert not (tmp_path / "a").exists()


@pytest.mark.usefixtures("command")
def test_without_out_no_command_touches_the_results_of_another(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _call(images, "--model", "spots") == 0
    assert capfd.readouterr().out.strip() == "results/report.html"
    first = _tree(tmp_path / "results")
    assert _call(images / "p0.png", "--model", "spots") == 0, "other images"
    output = capfd.readouterr()
    assert output.out.strip() == "results-2/report.html"
    assert "results holds the results of another command: these are in results-2" in output.err
    assert _call(images, "--model", "spots", "--tile", 64) == 0, "other settings"
    assert capfd.readouterr().out.strip() == "results-3/report.html"
    assert _tree(tmp_path / "results") == first
    for arguments, folder in (((images,), "results"), ((images / "p0.png",), "results-2")):
        assert _call(*arguments, "--model", "spots") == 0, "the same again"
        assert capfd.readouterr().out.strip() == f"{folder}/report.html"
    (images / "new.png").write_bytes((images / "p0.png").read_bytes())
    assert _call(images, "--model", "spots") == 0
    assert capfd.readouterr().out.strip() == "results/report.html", "the same command finds one image more"
    assert json.loads((tmp_path / "results/summary.json").read_text())["done"] == 8


@pytest.mark.usefixtures("command")
def test_a_killed_command_without_out_resumes_its_own_folder(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results/report.html").write_text("somebody's")
    with monkeypatch.context() as broken:
        broken.setattr("eachmask.batch.run._Worker.work", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with contextlib.suppress(KeyboardInterrupt):
            _call(images, "--model", "spots")
    assert (tmp_path / "results-2/.journal/run.json").exists()
    assert _call(images, "--model", "spots") == 0
    assert capfd.readouterr().out.strip() == "results-2/report.html"
    assert (tmp_path / "results/report.html").read_text() == "somebody's" and not (tmp_path / "results-3").exists()


@pytest.mark.usefixtures("command")
def test_names_on_standard_input(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{images / 'p0.png'}\n{images / 'p1.png'}\n"))
    assert _call("-", "--model", "spots", "--out", tmp_path / "a") == 0
    assert json.loads((tmp_path / "a/summary.json").read_text())["done"] == 2


def test_intensities_of_all_channels_of_a_file_of_which_one_is_seen(predictor: Predictor, tmp_path: Path) -> None:
    seen = spots_image(0, 60, 90)[..., 0]
    other = np.arange(60 * 90, dtype=np.uint8).reshape(60, 90)
    path = tmp_path / "in" / "dyes.ome.tif"
    path.parent.mkdir()
    layout = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm"}
    tifffile.imwrite(path, np.stack([other, seen]), metadata=layout)
    options = BatchOptions(save=("csv", "labels"), channels=(2,))
    out, inputs = tmp_path / "out", find_inputs([path], channels=(2,))
    assert run(predictor, inputs, out, options).objects > 0
    table = list(csv.DictReader((out / "instances.csv").open()))
    labels = np.asarray(Image.open(next((out / "labels").iterdir())))
    for row in table:
        mask = labels == int(row["id"])
        assert float(row["mean_intensity_1"]) == pytest.approx(other[mask].mean(), abs=1e-3)
        assert float(row["mean_intensity_2"]) == pytest.approx(seen[mask].mean(), abs=1e-3)
        assert row["mean_intensity_2"] == row["mean_intensity"] and float(row["area_um2"]) == int(row["area"]) / 4
    assert list(csv.DictReader(next((out / "csv").iterdir()).open())) == table
