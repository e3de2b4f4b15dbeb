"""The program: its commands, its help, its exit statuses. What a command computes is tested beside its room."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path

import pytest
import torch
from PIL import Image

from eachmask import __version__, cli
from eachmask.inference.load import load
from eachmask.structures import Category, UserError
from eachmask.weights.catalogue import bundled, entries
from eachmask.weights.file import ModelInfo

each_command = pytest.mark.parametrize("command", sorted(cli.COMMANDS))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "eachmask", *arguments], capture_output=True, text=True)


@each_command
def test_every_command_is_whole(command: str) -> None:
    module, options, function, summary = cli.COMMANDS[command]
    found = import_module(module)
    assert is_dataclass(getattr(found, options)) and callable(getattr(found, function)) and summary


@each_command
def test_help_of_every_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert stopped.value.code == 0 and f"eachmask {command}" in said
    module, options, _, _ = cli.COMMANDS[command]
    for field in fields(getattr(import_module(module), options)):
        assert "--" + field.name.rstrip("_").replace("_", "-") in said or "Positional" in str(field.type)


@each_command
def test_help_speaks_no_python(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    said = capsys.readouterr().out
    assert "None" not in said and "(default: )" not in said and "STR" not in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "a", "--data", "b", "--out", "c", "--steps", "many"], "--steps: 'many' is not a whole number"),
        (["predict", "a.png", "--out", "s3://bucket/a"], "--out: s3://bucket/a is an address"),
        (["evaluate", "nuclei", "--data", "gs://bucket/a"], "--data: gs://bucket/a is an address"),
        (["predict", "a", "--score", "high"], "--score: 'high' is not a number"),
        (["predict", "a", "--diameter", "wide"], "--diameter: 'wide' is not a number or auto"),
        (["train", "a", "--data", "b", "--out", "c", "--schedule", "None"], "invalid choice 'None'"),
    ],
)
def test_wrong_values_are_named(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    said = " ".join(capsys.readouterr().err.split())
    assert stopped.value.code == 2 and words in said and "NoneType" not in said


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"], ["-h"]):
        assert cli.main(arguments) == 0
        said = capsys.readouterr().out
        assert all(command in said for command in cli.COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"eachmask {__version__}"


def test_help_does_not_load_torch() -> None:
    code = "import sys; from eachmask.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_as_a_module() -> None:
    answer = run("--version")
    assert answer.returncode == 0 and __version__ in answer.stdout


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predct"]) == 2
    assert "did you mean predict?" in capsys.readouterr().err


def test_unknown_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["models", "--jsn"])
    assert stopped.value.code == 2


# What a failing command looks like -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (UserError("photo.png is empty: save it again"), 2, "eachmask: photo.png is empty: save it again\n"),
        (PermissionError(13, "Permission denied", "out"), 2, "eachmask: out: Permission denied\n"),
        (OSError(28, "No space left on device"), 2, "eachmask: the disk: No space left on device\n"),
        (OSError(28, "No space left on device", "from", None, "to"), 2, "eachmask: to: No space left on device\n"),
        (OSError(36, "File name too long", "xxx"), 2, "eachmask: xxx: File name too long\n"),
        (KeyboardInterrupt(), 130, "eachmask: interrupted; what is done is kept\n"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_that_a_user_can_mend(
    raised: BaseException,
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(options: object) -> int:
        raise raised

    monkeypatch.setattr("eachmask.cli.models.list_models", fail)
    assert cli.main(["models"]) == status
    assert capsys.readouterr().err == said


def test_too_little_memory_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(options: object) -> int:
        return len(torch.empty(2**60, dtype=torch.uint8))  # more than any machine has

    monkeypatch.setattr("eachmask.cli.models.list_models", fail)
    assert cli.main(["models"]) == 2
    assert "needs more memory than there is: smaller images" in capsys.readouterr().err


@pytest.mark.parametrize("bug", [ValueError("a bug"), OSError(5, "Input/output error")])
def test_bugs_are_not_hidden(bug: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(options: object) -> int:
        raise bug

    monkeypatch.setattr("eachmask.cli.models.list_models", fail)
    with pytest.raises(type(bug), match=str(bug.args[-1])):
        cli.main(["models"])


def test_reader_that_goes_away() -> None:
    code = (
        "import sys; from eachmask import cli; from eachmask.cli import models\n"
        "models.list_models = lambda options: [print('x' * 100) for _ in range(100_000)] and 0\n"
        "sys.exit(cli.main(['models']))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


# models and show ------------------------------------------------------------------------------------


def test_models_are_compared_by_time_and_ap(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EACHMASK_CACHE", str(tmp_path))
    monkeypatch.setattr("eachmask.inference.speed.seconds_of", lambda entry: entry.size_mb / 1000)
    assert cli.main(["models", "--compare", "--out", str(tmp_path / "page.html")]) == 0
    lines = capsys.readouterr().out.splitlines()
    (fastest,) = [line for line in lines if line.startswith("rtmdet_ins_tiny")]
    assert fastest.split() == ["rtmdet_ins_tiny", "35.4", "23", "23", "*"]
    assert not any(line.startswith("yolact_r50 ") and line.endswith("*") for line in lines)
    assert "rtmdet_ins_tiny" in (tmp_path / "page.html").read_text()
    assert cli.main(["models", "--out", str(tmp_path / "page.html")]) == 2


def test_a_wish_is_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("eachmask.inference.load.load", lambda name, **_: asked.append(name) or load("objects"))
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 48)).save("a.png")
    assert cli.main(["predict", "a.png", "--model", "tiny"]) == 0 and asked == ["rtmdet_ins_tiny"]


def test_models_as_json(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EACHMASK_CACHE", str(tmp_path))
    entry, other, *_ = entries().values()
    (tmp_path / f"{entry.name}-{entry.sha256}.safetensors").touch()
    assert cli.main(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == [*bundled(), *entries(), "xmem"]
    assert rows[entry.name]["where"] == "cache" and rows[other.name]["where"] == "download"
    assert all(rows[name]["where"] == "bundled" and rows[name]["measured"] for name in bundled())
    assert rows[entry.name]["published"] == entry.by_metric() and rows[entry.name]["measured"] == {}
    assert all(row["license"] and row["source"] and row["size_mb"] > 0 for row in rows.values())


def test_models_as_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models"]) == 0
    said = capsys.readouterr().out
    lines = {line.split()[0]: line for line in said.splitlines() if line.strip()}
    assert all(name in lines for name in (*bundled(), *entries()))
    assert " 41.8 " in lines["mask_rcnn_r50_fpn_v2"] and lines["mask_rcnn_r50_fpn_v2"].endswith("not stated")
    assert {name for name, line in lines.items() if "*" in line.removeprefix("published")} >= {"nuclei", "objects"}
    assert not any("*" in lines[name] for name in entries()) and " - " in lines["clicks"]  # answers have no AP
    assert "measured by us" in said and "published by its makers" in said
    assert max(map(len, said.splitlines())) <= 80


@pytest.mark.parametrize("name", [*bundled(), list(entries())[1]])
def test_show(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", name]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"# {name}") and "license:" in said and "preprocess:" in said and "None" not in said
    assert cli.main(["show", name, "--json"]) == 0
    assert ModelInfo.from_json(capsys.readouterr().out).name == name


def test_show_of_something_absent(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", "nuclear"]) == 2
    assert cli.main(["show", "runs/absent.safetensors"]) == 2
    assert "absent.safetensors does not exist" in capsys.readouterr().err


def test_settings_leave_out_what_is_empty() -> None:
    from eachmask.cli.show import settings

    shown = settings(ModelInfo("v", categories=(Category(1, "a"), Category(2, "N/A")), tile=512, scores={"ap": 1 / 3}))
    assert shown["categories"] == "1: a" and shown["tile"].startswith("512 px") and shown["scores"] == "ap 0.3333"
    assert "decode" not in shown and "card" not in shown


def test_names_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", str(tmp_path / "a\x1b[2Jb\u202ec")]) == 2
    shown = capsys.readouterr().err
    assert "\x1b" not in shown and "\u202e" not in shown and "a\\x1b[2Jb\\u202ec" in shown


@pytest.mark.parametrize(
    "wrong",
    [
        "--tile 8", "--overlap 0.7", "--batch 0", "--score 2", "--channel 1 2", "--nms x", "--save palette",
        "--classes dragon", "--scales 1 9", "--model clicks --flip", "--model yolo_v1 --scales 1 2",
        "--stride 64", "--side 20", "--diameter 0", "--workers 2",
        "--model deeplabv3_resnet50 --save geojson", "--model deeplabv3_resnet50 --nms soft",
        "--model objects --diameter 9", "--model objects --classes nucleus", "--model nuclear",
    ],
)  # fmt: skip
def test_wrong_options_are_refused_before_a_model_is_loaded(
    tmp_path: Path, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr("eachmask.inference.load.load", loaded)
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    try:
        assert cli.main(["predict", str(tmp_path / "a.png"), "--model", "nuclei", *wrong.split()]) == 2
    except SystemExit as refused:
        assert refused.code == 2
    assert not (tmp_path / "results").exists()


def test_what_the_model_knows_is_not_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def loaded(*_: object, **__: object) -> None:
        raise LookupError("a model is loaded")

    monkeypatch.setattr("eachmask.inference.load.load", loaded)
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    for right in (
        "--model objects --classes cat animal", "--model nuclei --save labels,csv", "--diameter 12 --model nuclei",
        "--scales 1 2 --flip --model nuclei",
        "--model deeplabv3_resnet50 --save palette --scales 1 1.5 --tile 64 --stride 64",
    ):  # fmt: skip
        with pytest.raises(LookupError):
            cli.main(["predict", str(tmp_path / "a.png"), *right.split()])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("--save geojson", "--save knows davis, mots, overlay"),
        ("--low 0.6 --score 0.5", "scores must rise"),
        ("--classes dragon", "the model knows no class 'dragon'"),
        ("--tile 8", "a tile of 8 pixels is too small"),
        ("--first a.png --gap 3 --classes cat", "--gap, --classes would change nothing"),
        ("--first a.png --save geojson", "--save knows davis, mots, overlay"),
        ("--first absent.png", "there is no label map absent.png"),
        ("--out new", "absent.png does not exist"),
        ("--out full", "full holds davis, which no earlier run made"),
        ("--out full --first a.png", "full holds davis, which no earlier run made"),
        ("--first small.png", "the first mask has 4 x 3 px"),
        ("--first empty.png", "the first mask has no object"),
    ],
)
def test_track_refuses_before_a_model_is_loaded(
    wrong: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full/davis").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save("frame.png")
    for name, size, number in (("small", (4, 3), 1), ("empty", (8, 8), 0), ("a", (8, 8), 1)):
        Image.new("L", size, number).save(f"{name}.png")

    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr("eachmask.inference.load.load", loaded)
    monkeypatch.setattr("eachmask.inference.following.load", loaded)
    video = "absent.png" if wrong == "--out new" else "frame.png"
    assert cli.main(["track", video, *wrong.split()]) == 2
    assert words in " ".join(capsys.readouterr().err.split())
