"""Evaluation from files to the report, and the command's exit status."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_scenes import CATEGORIES, made, pycocotools, read_one, write
from PIL import Image
from skimage.measure import label
from small_sets import SIZE, make_set
from tiny_model import Spots, spots_image, spots_info

import eachmask
from eachmask.cli import main
from eachmask.data.formats.coco_results import read_results
from eachmask.data.formats.coco_write import write_coco_folder
from eachmask.data.formats.labelme import write_labelme
from eachmask.data.joined import joined
from eachmask.data.matching import match_categories
from eachmask.evaluation.evaluation import Evaluation
from eachmask.evaluation.report import evaluation_html
from eachmask.inference.predictor import Predictor
from eachmask.metrics.coco_ap import NAMES, coco_ap
from eachmask.structures import RLE, Category, UserError
from eachmask.structures.coco import to_annotations

QUICK = {"resamples": 20}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    return write(tmp_path_factory.mktemp("made"), *made(6))


@pytest.fixture(scope="module")
def found(files) -> Evaluation:
    found = eachmask.evaluate(files[1], files[0], compare=files[1], **QUICK)
    return replace(found, published={"mask AP": 34.6})


def test_the_twelve_numbers_are_pycocotools(files, found):
    rows = [{k: v for k, v in row.items() if k not in ("bbox", "area")} for row in json.loads(files[1].read_text())]
    theirs = pycocotools(files[0], rows, "segm")
    for name, other in zip(NAMES, theirs, strict=True):
        assert found.coco["segm"][name] == pytest.approx(other, abs=1e-12) or other == -1
    assert found.value("ap") == found.value("segm.ap")


def test_all_parts_are_there(found):
    assert found.num_images == 8 and found.classes == [c.name for c in CATEGORIES]
    assert set(found.coco) == {"segm", "bbox"}
    assert 0 < found.boundary["ap"] < found.coco["segm"]["ap"]
    for name in ("pq", "sq", "rq", "miou", "dice", "sbd", "coverage", "weighted_coverage"):
        assert 0 < found.quality[name] <= 1, name
    assert len(found.matching) == 9 and len(found.confusion) == 4
    assert found.intervals["ap"].low <= found.intervals["ap"].high
    assert found.comparison is not None and not found.comparison.difference["ap"].excludes_zero
    total = found.matching["0.50"]
    assert found.matching["0.90"]["true_positives"] <= total["true_positives"]
    assert total["true_positives"] + total["false_negatives"] == found.num_objects


def test_unknown_measure_lists_the_known(found):
    with pytest.raises(UserError, match=r"no measure 'map'; there are: ap, ap50.*boundary\.ap.*pq"):
        found.value("map")


def test_json_is_strict_and_published_scores_stand_apart(found):
    content = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert content["published_by_others"] == {"mask AP": 34.6}
    assert "34.6" not in json.dumps(content["measured"])
    assert content["measured"]["coco"]["segm"]["ap"] == pytest.approx(found.value("ap"))


class Balanced(HTMLParser):
    """Every element is closed in order, and nothing is fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        assert not {"src", "href", "onload", "onclick"} & {name for name, _ in attrs}
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_report_is_well_formed_escaped_and_self_contained(found):
    page = evaluation_html(found)
    reader = Balanced()
    reader.feed(page)
    assert not reader.open
    assert "<b>cell</b>" not in page and "dead &lt;b&gt;cell&lt;/b&gt;" in page
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page) and "@import" not in page and "url(" not in page
    assert page.count("<svg") == 4
    assert not re.search(r"\bnan\b", page)


def test_published_scores_have_no_column_with_measured_ones(found):
    tables = re.findall(r"<table.*?</table>", evaluation_html(found), re.S)
    with_published = [table for table in tables if "34.6" in table]
    assert len(with_published) == 1 and f"{found.value('ap'):.3f}" not in with_published[0]


def run(files: tuple[Path, Path], out: Path, *more: str) -> int:
    return main(
        [
            "evaluate",
            "--predictions",
            str(files[1]),
            "--data",
            str(files[0]),
            "--out",
            str(out),
            "--resamples",
            "0",
            *more,
        ]
    )


def test_command(files, tmp_path, capsys):
    assert run(files, tmp_path, "--fail-under", "ap=0.01", "bbox.ap50=0.01") == 0
    printed = capsys.readouterr().out
    assert "segm" in printed and "boundary" in printed and "Report:" in printed
    assert {p.name for p in tmp_path.iterdir()} == {"report.html", "evaluation.json"}


def test_fail_under(files, tmp_path, capsys):
    assert run(files, tmp_path, "--fail-under", "ap=0.99", "--no-boundary") == 1
    assert "ap is 0." in capsys.readouterr().out
    assert run(files, tmp_path, "--fail-under", "ap_large=0.1", "--no-boundary") == 1  # nothing large to judge
    assert run(files, tmp_path, "--fail-under", "ap>0.1") == 2
    assert run(files, tmp_path, "--fail-under", "ap=nan") == 2  # nothing is below it
    assert run(files, tmp_path, "--fail-under", "map=0.1", "--no-boundary") == 2
    assert "NAME=NUMBER" in capsys.readouterr().err


def test_mistakes_are_sentences(files, tmp_path, capsys):
    assert main(["evaluate", "--data", str(files[0])]) == 2
    assert main(["evaluate", "nuclei", "--predictions", str(files[1]), "--data", str(files[0])]) == 2
    assert main(["evaluate", "--predictions", str(files[1]), "--data", str(tmp_path / "none.json")]) == 2
    assert main(["evaluate", "--predictions", str(files[0]), "--data", str(files[0]), "--out", str(tmp_path)]) == 2
    errors = capsys.readouterr().err
    assert "either a model or --predictions" in errors and "none.json does not exist" in errors
    assert "need a score" in errors and "Traceback" not in errors


@pytest.mark.parametrize("wrong", [("--score", "2"), ("--score", "nan"), ("--resamples", "-5"), ("--seed", "-1")])
def test_settings_that_make_no_sense(files, tmp_path, capsys, wrong):
    assert run(files, tmp_path, *wrong) == 2
    errors = capsys.readouterr().err
    assert ("must lie in 0..1" in errors or "must not be negative" in errors) and "Traceback" not in errors


def test_a_file_in_the_way_of_the_report(files, tmp_path, capsys):
    (tmp_path / "taken").write_text("")
    assert (
        main(["evaluate", "--predictions", str(files[1]), "--data", str(files[0]), "--out", str(tmp_path / "taken")])
        == 2
    )
    assert "taken: File exists" in capsys.readouterr().err


@pytest.mark.parametrize("number", ["photo", 10**25, -1, 0.5])
def test_images_that_cannot_be_counted_are_measured_too(files, tmp_path, number):
    content, rows = json.loads(files[0].read_text()), json.loads(files[1].read_text())
    for i, row in enumerate(rows):
        row["score"] = 0.1 + 0.8 * row["score"] + 1e-5 * i  # equal scores are ranked by the images' order
    path, results = tmp_path / "i.json", tmp_path / "r.json"
    results.write_text(json.dumps(rows))
    usual = eachmask.evaluate(results, files[0], **QUICK)
    old = content["images"][0]["id"]
    content["images"][0]["id"] = number
    for row in [*content["annotations"], *rows]:
        row["image_id"] = number if row["image_id"] == old else row["image_id"]
    path.write_text(json.dumps(content))
    results.write_text(json.dumps(rows))
    found = eachmask.evaluate(results, path, **QUICK)
    for kind, numbers in usual.coco.items():
        assert found.coco[kind] == pytest.approx(numbers, nan_ok=True)


def test_masks_and_boxes_mixed_are_measured_alike(files, tmp_path):
    rows = json.loads(files[1].read_text())
    for row, key in zip(rows, ("segmentation", "bbox"), strict=False):
        row |= {key: None, "id": "a tool's own", "area": None, "more": {}}
    path = tmp_path / "mixed.json"
    path.write_text(json.dumps(rows))
    mixed = eachmask.evaluate(path, files[0], **QUICK)
    assert "1 results have no mask: each is its whole box" in mixed.notes
    assert mixed.intervals["ap"].value == pytest.approx(mixed.value("ap"), abs=1e-6)
    assert mixed.value("ap") > 0.9 * eachmask.evaluate(files[1], files[0], **QUICK).value("ap")


def test_annotations_of_another_format(tmp_path, spots_model, capsys):
    data = make_set(tmp_path / "images")
    write_labelme(tmp_path / "labelme", data)
    out = ["--out", str(tmp_path / "out"), "--no-boundary"]
    assert main(["evaluate", "spots", "--data", str(tmp_path / "labelme"), "--split", "test", *out]) == 2
    assert "--split train or val" in capsys.readouterr().err
    assert main(["evaluate", "spots", "--data", str(tmp_path / "labelme"), *out]) == 2, "no class in common"
    written = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert [Path(image["file_name"]).name for image in written["images"]] == ["c.png"]
    assert len(written["annotations"]) == 2


def test_no_predictions_at_all(files, tmp_path):
    empty = tmp_path / "empty.json"
    empty.write_text("[]")
    none = eachmask.evaluate(empty, files[0], **QUICK)
    assert none.value("ap") == 0 and none.value("pq") == 0 and none.num_detections == 0
    assert "<svg" in evaluation_html(none)


def test_boxes_without_masks(files, tmp_path):
    rows = [{k: v for k, v in row.items() if k != "segmentation"} for row in json.loads(files[1].read_text())]
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(rows))
    boxes = eachmask.evaluate(path, files[0], **QUICK)
    assert set(boxes.coco) == {"bbox"} and not boxes.boundary and "no masks" in boxes.notes[0]
    assert "AP of boxes" in evaluation_html(boxes)


def test_classes_are_matched_by_name():
    known = (Category(1, "Person"), Category(2, "car"), Category(3, "dog"))
    labels, notes = match_categories(known, (Category(9, "dog"), Category(4, "person"), Category(5, "cat")))
    assert labels == {0: 1, 2: 0} and "cat" in notes[0]
    assert match_categories((Category(1, "nucleus"),), (Category(1, "cell"),))[0] == {0: 0}
    kinds = (Category(1, "animal"), Category(2, "cat", "animal"), Category(3, "car", "vehicle"))
    labels, _ = match_categories(kinds, (Category(5, "Animal"), Category(6, "bus")))
    assert labels == {0: 0, 1: 0}, "what the annotations do not know counts for its nearest ancestor"
    with pytest.raises(UserError, match="no class in common"):
        match_categories(known, (Category(1, "tree"), Category(2, "bush")))


def spots_data(folder: Path, number: int = 3) -> Path:
    """Annotations of images of spots that the tiny model finds all of; they lie beside their images."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, records = [], []
    for key in range(1, number + 1):
        image = spots_image(key - 1)
        Image.fromarray(image).save(folder / f"{key}.png")
        records.append({"id": key, "file_name": f"{key}.png", "height": 96, "width": 128})
        masks = RLE.from_label_map(label(image.mean(2) > 127.5, connectivity=1))
        for rle, area in zip(masks.to_coco(), masks.area().tolist(), strict=True):
            own = {"id": len(rows) + 1, "image_id": key, "category_id": 7 if area > 150 else 3}
            rows.append(own | {"segmentation": rle, "area": area, "iscrowd": 0})
    categories = [{"id": 7, "name": "<LARGE> & spot"}, {"id": 3, "name": "small spot"}]
    path = folder / "spots.json"
    path.write_text(json.dumps({"images": records, "annotations": rows, "categories": categories}))
    return path


@pytest.fixture
def spots_model(monkeypatch):
    """A model called spots."""
    monkeypatch.setattr("eachmask.inference.load.load", lambda name, **_: Predictor(Spots(), spots_info()))


def test_a_model_predicts_and_is_measured(tmp_path, spots_model, capsys):
    """The whole way: images through a model, its predictions written, read and measured."""
    limits = ["--fail-under", "ap=0.999", "pq=0.999", "bbox.ap=0.999"]
    out = tmp_path / "out"
    assert main(["evaluate", "spots", "--data", str(spots_data(tmp_path)), "--out", str(out), *limits]) == 0
    assert "no area" not in (printed := capsys.readouterr().out) and "no bbox" in printed
    ids = {row["category_id"] for row in json.loads((out / "predictions.json").read_text())}
    assert ids <= {3, 7} and ids
    assert not (out / "predicted").exists()


def test_a_box_without_width_is_its_mask_s_and_said(tmp_path, spots_model, capsys):
    path = spots_data(tmp_path)
    content = json.loads(path.read_text())
    for row in content["annotations"]:
        row["bbox"] = [10, 10, -5, 5]
    path.write_text(json.dumps(content))
    call = ["evaluate", "spots", "--data", str(path), "--out", str(tmp_path / "out"), "--fail-under", "bbox.ap=0.999"]
    assert main(call) == 0
    assert "have a bbox without width or height: taken from the masks" in capsys.readouterr().out


def test_images_that_cannot_be_read_are_left_out_and_named(tmp_path, spots_model, capsys):
    data, out = spots_data(tmp_path, 4), tmp_path / "out"
    (tmp_path / "2.png").write_bytes(b"no image")
    (tmp_path / "4.png").unlink()
    call = ["evaluate", "spots", "--data", str(data), "--out", str(out)]
    assert main([*call, "--fail-under", "ap=0.999"]) == 1  # of what was measured all is found, but that is not all
    printed = capsys.readouterr().out
    assert "spots.json: 2 images" in printed and "2 of 4 images were left out" in printed
    assert "2.png is not an image" in printed and "4.png does not exist" in printed and "below" not in printed
    notes = json.loads((out / "evaluation.json").read_text())["measured"]["notes"]
    assert sum("2.png" in note for note in notes) == 1
    assert main([*call, "--merge", "all"]) == 1
    assert main([*call, "--compare", str(out / "predictions.json")]) == 2
    assert "not be compared on the same images" in capsys.readouterr().err
    for name in ("1.png", "3.png"):
        (tmp_path / name).unlink()
    assert main(call) == 2
    assert "not one image can be measured" in capsys.readouterr().err


def test_an_interrupted_evaluation_goes_on(tmp_path, monkeypatch, capsys):
    data, out = spots_data(tmp_path, 4), tmp_path / "out"
    seen: list[float] = []

    class Dies(Spots):
        """Is killed at its third image."""

        def forward(self, batch):
            seen.append(float(batch.tensor.sum()))
            if len(seen) == 3:
                raise KeyboardInterrupt
            return super().forward(batch)

    monkeypatch.setattr("eachmask.inference.load.load", lambda name, **_: Predictor(Dies(), spots_info()))
    call = ["evaluate", "spots", "--data", str(data), "--out", str(out)]
    assert main(call) == 130
    assert main(call) == 0
    assert "2 images had been predicted" in capsys.readouterr().out
    assert len(seen) == 5 and seen[2] == seen[3] and len({*seen}) == 4
    resumed = (out / "predictions.json").read_bytes()
    assert main(call) == 0 and len(seen) == 9  # what was finished is measured anew
    assert (out / "predictions.json").read_bytes() == resumed
    assert "had been predicted" not in capsys.readouterr().out


def test_predictions_of_another_model_are_not_used(tmp_path, monkeypatch):
    class Dies(Spots):
        def forward(self, batch):
            raise KeyboardInterrupt

    data, out = spots_data(tmp_path), tmp_path / "out"
    call = ["evaluate", "spots", "--data", str(data), "--out", str(out)]
    monkeypatch.setattr("eachmask.inference.load.load", lambda name, **_: Predictor(Spots(), spots_info()))
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)  # as if killed before the end
    assert main(call) == 0
    other = replace(spots_info(), decode={"mask_threshold": 0.25})
    monkeypatch.setattr("eachmask.inference.load.load", lambda name, **_: Predictor(Dies(), other))
    assert main(call) == 130


SQUARE, LARGE = [[5, 5, 20, 5, 20, 20, 5, 20]], [[1, 1, 40, 1, 40, 40, 1, 40]]


def _measured(folder: Path, changes: dict, *results: dict) -> Evaluation:
    """Two objects of one class in image 1 of two, and a result exactly on each unless others are given."""
    rows = [
        {"id": i, "image_id": 1, "category_id": 1, "segmentation": ring, "bbox": box, "area": area, "iscrowd": 0}
        for i, ring, box, area in ((1, SQUARE, [5, 5, 15, 15], 225), (2, LARGE, [1, 1, 39, 39], 1521))
    ]
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 48} for i in (1, 2)],
        "annotations": [row | changes for row in rows],
        "categories": [{"id": changes.get("category_id", 1), "name": "cell"}],
    }
    if "image_id" in changes:
        content["images"][0]["id"] = changes["image_id"]
    (folder / "gt.json").write_text(json.dumps(content))
    known = {key: changes[key] for key in ("image_id", "category_id") if key in changes}
    found = results or [{"segmentation": ring} for ring in (SQUARE, LARGE)]
    base = {"image_id": 1, "category_id": 1, "score": 0.9} | known
    (folder / "found.json").write_text(json.dumps([base | row for row in found]))
    return eachmask.evaluate(folder / "found.json", folder / "gt.json", **QUICK)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"image_id": "left"},
        {"image_id": "7"},
        {"category_id": -5},
        {"category_id": 0},
        {"category_id": "3"},
        {"id": 4},
        {"id": "a"},
        {"id": None},
        {"iscrowd": "0"},
        {"iscrowd": False},
    ],
    ids=str,
)
def test_ids_and_flags_as_others_write_them(tmp_path, changes):
    found = _measured(tmp_path, changes)
    assert found.num_objects == 2
    assert found.value("ap") == found.value("bbox.ap") == found.value("boundary.ap") == pytest.approx(1)
    assert any("numbered anew" in note for note in found.notes) == ("id" in changes)


def test_outlines_have_a_size_and_a_box(tmp_path):
    found = _measured(tmp_path, {})
    for name in ("ap_small", "ap_medium", "bbox.ap_small", "bbox.ap_medium"):
        assert found.value(name) == pytest.approx(1), name


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"score": "high"}, "result 1 has the score high: it must be a finite number"),
        ({"score": None}, "result 1 has the score None"),
        ({"score": float("nan")}, "result 1 has the score nan"),
        ({"image_id": None}, "result 1 has no image_id"),
        ({"image_id": 9}, "result 1 has image_id 9"),
        ({"category_id": [1]}, r"result 1 has category_id \[1\]"),
    ],
)
def test_results_that_cannot_be_used_are_named(tmp_path, row, reason):
    with pytest.raises(UserError, match=reason):
        _measured(tmp_path, {}, {"segmentation": SQUARE} | row)


@pytest.mark.parametrize(("text", "reason"), [("[{", "is not valid JSON"), ("[1]", "result 1 is no object")])
def test_files_that_hold_no_results_are_named(files, tmp_path, text, reason):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(UserError, match=reason):
        eachmask.evaluate(tmp_path / "r.json", files[0], **QUICK)


def test_the_report_shows_the_best_and_the_worst_images(tmp_path):
    data = make_set(tmp_path / "images")
    write_coco_folder(tmp_path / "set", data.with_splits({"train": joined(list(data.splits.values()))}))
    annotations = tmp_path / "set" / "instances_train.json"
    split = read_one(annotations, tmp_path / "set" / "images" / "train")
    rows = [  # of the first image all that is annotated, of the others nothing
        {"image_id": split.image_id(0), **row, "score": 0.9} for row in to_annotations(split.targets(0))
    ]
    results = tmp_path / "results.json"
    results.write_text(json.dumps(rows))
    quick = {"resamples": 0, "boundary": False}
    found = eachmask.evaluate(results, tmp_path / "set", split="train", gallery=1, **quick)
    (best,), (worst,) = found.best, found.worst
    assert split.file_name(0) in best.caption and "0 missed, 0 false" in best.caption
    assert "c.png: 0 found, 2 missed, 0 false" in worst.caption, "b.png has no objects"
    assert worst.found.shape == worst.annotated.shape == (*SIZE, 3)
    assert (worst.found != worst.annotated).any(-1).mean() > 0.1
    page = evaluation_html(found)
    assert page.count("data:image/jpeg") == 4 and "best" not in found.to_json()["measured"]
    shutil.rmtree(tmp_path / "set" / "images")
    assert not eachmask.evaluate(results, annotations, **quick).best


def _with_supercategories(file: Path, **kinds: str) -> None:
    content = json.loads(file.read_text())
    for category in content["categories"]:
        category["supercategory"] = kinds[category["name"].split()[0]]
    file.write_text(json.dumps(content))


def test_all_classes_as_one(files, tmp_path):
    assert run(files, tmp_path / "out", "--merge", "all", "--compare", str(files[1])) == 0
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())["measured"]
    split = read_one(files[0])
    predictions = read_results(files[1], split).instances
    targets = [split.stated_targets(i) for i in range(len(split))]
    expected = coco_ap(predictions, targets, class_agnostic=True)
    assert found["coco"]["segm"]["ap"] == pytest.approx(expected["ap"], abs=2e-3)  # equal scores in another order
    assert abs(coco_ap(predictions, targets)["ap"] - expected["ap"]) > 0.02
    assert found["classes"] == ["object"] and found["comparison"]["difference"]["ap"]["value"] == 0


def test_merging_overwrites_nothing_that_was_given(files, tmp_path):
    given = tmp_path / "annotations.json", tmp_path / "predictions.json"
    for copy, file in zip(given, files, strict=True):
        copy.write_text(file.read_text())
    assert run(given, tmp_path, "--merge", "all", "--compare", str(given[1])) == 0
    assert [copy.read_text() for copy in given] == [file.read_text() for file in files]


def test_results_of_merged_classes(files, tmp_path, capsys):
    """A plain list has the data's ids; a file with categories of its own may know merged or original classes."""
    own = tmp_path / "own.json"
    own.write_text(files[0].read_text())
    assert run((own, files[1]), tmp_path / "out", "--merge", "supercategories") == 2
    assert "--merge all" in capsys.readouterr().err
    _with_supercategories(own, cell="living", dead="dead", debris="dead")
    assert run((own, files[1]), tmp_path / "out", "--merge", "supercategories") == 0
    plain = json.loads((tmp_path / "out" / "evaluation.json").read_text())["measured"]
    assert plain["classes"] == ["living", "dead"]
    merged = {3: 0, 7: 1, 9: 1}
    rows = [row | {"category_id": merged[row["category_id"]]} for row in json.loads(files[1].read_text())]
    foreign = rows[0] | {"category_id": 5}
    named = tmp_path / "named.json"
    names = [{"id": 0, "name": "Living"}, {"id": 1, "name": "dead"}, {"id": 5, "name": "glass"}]
    named.write_text(json.dumps({"annotations": [*rows, foreign], "categories": names}))
    assert run((own, named), tmp_path / "named", "--merge", "supercategories") == 0
    assert json.loads((tmp_path / "named" / "evaluation.json").read_text())["measured"]["coco"] == plain["coco"]
    named.write_text(json.dumps([foreign]))
    assert run((own, named), tmp_path / "named", "--merge", "supercategories") == 2
    assert "result 1 has category_id 5" in capsys.readouterr().err
    named.write_text("{}")
    assert run((own, named), tmp_path / "named", "--merge", "all") == 2


def test_a_model_of_supercategories_is_measured_on_them(tmp_path, spots_model, capsys):
    Image.fromarray(spots_image(1)).save(tmp_path / "1.png")
    masks = RLE.from_label_map(label(spots_image(1).mean(2) > 127.5, connectivity=1))
    rows = [
        {"id": i, "image_id": 1, "category_id": 1 + i % 2, "segmentation": rle, "area": 1, "iscrowd": 0}
        for i, rle in enumerate(masks.to_coco(), start=1)
    ]
    kinds = [{"id": i, "name": f"kind {i}", "supercategory": "small spot"} for i in (1, 2)]
    other = {"id": 3, "name": "<LARGE> & spot", "supercategory": "spot"}
    content = {
        "images": [{"id": 1, "file_name": "1.png", "height": 96, "width": 128}],
        "annotations": rows,
        "categories": [*kinds, other],
    }
    (tmp_path / "spots.json").write_text(json.dumps(content))
    call = ["evaluate", "spots", "--data", str(tmp_path / "spots.json"), "--out", str(tmp_path / "out")]
    assert main(call) == 0
    assert "--merge supercategories" in capsys.readouterr().out
    assert main([*call, "--merge", "supercategories"]) == 0
    assert "--merge" not in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())["measured"]
    assert found["classes"] == ["small spot", "spot"]
    assert {row["category_id"] for row in json.loads((tmp_path / "out" / "predictions.json").read_text())} == {1, 2}
    assert main([*call, "--merge", "all"]) == 0
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())["measured"]
    assert found["coco"]["segm"]["ap"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("block", "value"),
    [
        ("info", {"year": "", "contributor": 3}),
        ("info", "by hand"),
        ("licenses", [{"id": "zero", "url": None}]),
        ("images", {"date_captured": 0, "license": "none", "coco_url": 7}),
        ("categories", {"supercategory": None, "color": "#fff"}),
        ("annotations", {"attributes": {"occluded": False}, "text": None}),
    ],
    ids=str,
)
def test_what_other_tools_write_beside_is_not_measured(files, tmp_path, block, value):
    content = json.loads(files[0].read_text())
    if block in ("images", "categories", "annotations"):
        content[block] = [{**row, **value} for row in content[block]]
    else:
        content[block] = value
    (tmp_path / "gt.json").write_text(json.dumps(content))
    usual = eachmask.evaluate(files[1], files[0], **QUICK)
    found = eachmask.evaluate(files[1], tmp_path / "gt.json", **QUICK)
    assert found.coco["segm"] == pytest.approx(usual.coco["segm"], nan_ok=True)


@pytest.mark.parametrize("empty", [[], None])
def test_an_annotation_without_a_mask_is_its_box_in_every_measure(tmp_path, empty):
    usual, found = _measured(tmp_path, {}), _measured(tmp_path, {"segmentation": empty})
    for name in ("ap", "bbox.ap", "boundary.ap", "pq", "dice"):  # the two objects overlap: PQ is not 1
        assert found.value(name) == pytest.approx(usual.value(name)), name
    assert found.value("ap") == pytest.approx(1)
    assert any("have no mask" in note for note in found.notes)
