"""YOLO's texts as predictions."""

from __future__ import annotations

from pathlib import Path

import pytest
from foreign_sets import image

from eachmask import UserError
from eachmask.cli import main
from eachmask.evaluation.evaluation import Evaluation
from eachmask.evaluation.measure import evaluate

NUT, BOLT = "0 0.1 0.1 0.3 0.1 0.3 0.4 0.1 0.4", "1 0.5 0.5 0.9 0.5 0.9 0.9 0.5 0.9"
YAML = "val: images/val\nnames: [nut, bolt]\n"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, lines in (("a", f"{NUT}\n{BOLT}\n"), ("b", f"{BOLT}\n"), ("c", "")):
        image(tmp_path / f"set/images/val/{name}.png")
        write(tmp_path / "set/labels/val", name, lines)
    (tmp_path / "set/data.yaml").write_text(YAML)
    return tmp_path / "set"


def write(folder: Path, name: str, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.txt").write_text(text)


def results(folder: Path, end: str = " 0.9", a: str = f"{NUT}\n{BOLT}", b: str = BOLT) -> Path:
    count = iter(range(1, 9))
    for name, lines in (("a", a), ("b", b)):
        write(folder, name, "".join(f"{line}{end.replace('#', str(next(count)))}\n" for line in lines.splitlines()))
    return folder


def measured(folder: Path, data: Path) -> tuple[Evaluation, str]:
    found = evaluate(folder, data, resamples=0, boundary=False)
    return found, "\n".join(found.notes)


@pytest.mark.parametrize(
    ("end", "note"), [(" 0.9", ""), ("", "no scores"), (" 0.9 #", "numbers of tracks"), (" #", "numbers of tracks")]
)
def test_perfect_results(tmp_path: Path, data: Path, end: str, note: str) -> None:
    found, notes = measured(results(tmp_path / "labels", end), data)
    assert found.value("ap") == pytest.approx(1) and note in notes


def test_boxes_are_noted(tmp_path: Path, data: Path) -> None:
    found, notes = measured(results(tmp_path / "labels", a="0 0.2 0.25 0.2 0.3", b="1 0.7 0.7 0.4 0.4"), data)
    assert "the results have no masks" in notes and found.value("bbox.ap50") > 0.4


def test_classes_by_the_names_beside_the_texts(tmp_path: Path, data: Path) -> None:
    folder = results(tmp_path / "labels", a=f"1{NUT[1:]}\n0{BOLT[1:]}", b=f"0{BOLT[1:]}")
    found, notes = measured(folder, data)
    assert found.value("ap") < 0.1 and "check the order of the classes" in notes
    (folder / "classes.txt").write_text("bolt\nnut\n")
    assert measured(folder, data)[0].value("ap") == pytest.approx(1)


def test_images_that_are_not_annotated_are_left_out_and_said(tmp_path: Path, data: Path) -> None:
    folder = results(tmp_path / "labels")
    write(folder, "other", f"{NUT} 0.8\n")
    found, notes = measured(folder, data)
    assert found.value("ap") == pytest.approx(1) and "1 text of images that are not annotated: left out" in notes


def test_what_cannot_be_measured_is_named(tmp_path: Path, data: Path) -> None:
    folder = results(tmp_path / "labels", a=f"7{NUT[1:]}")
    with pytest.raises(UserError, match=r"a\.txt, line 1: class 7 .* classes.txt"):
        evaluate(folder, data)
    write(tmp_path / "others", "x", f"{NUT} 0.9\n")
    with pytest.raises(UserError, match=r"of other images than the annotations: x\.txt"):
        evaluate(tmp_path / "others", data)


def test_the_command_takes_a_folder_of_texts(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = results(tmp_path / "labels")
    command = ["evaluate", "--predictions", str(folder), "--data", str(data), "--out", str(tmp_path / "out")]
    assert not main([*command, "--resamples", "0", "--no-boundary"])
    assert "ap 1.000" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    command[2] = str(tmp_path / "empty")
    assert main(command) and "holds no results as YOLO's texts" in capsys.readouterr().err
