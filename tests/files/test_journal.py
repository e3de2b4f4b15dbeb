from __future__ import annotations

import json
import zlib
from pathlib import Path

import pytest

from eachmask.data.images.inputs import Source
from eachmask.files.journal import Journal
from eachmask.structures import UserError


def _journal(out: Path, overwrite: bool = False, **settings: object) -> Journal:
    return Journal(out, {"--score": 0.5} | settings, ("predictions.json", "overlays"), overwrite)


def _source(i: int, **changes: object) -> Source:
    return Source(Path(f"/x/{i}.png"), f"{i}.png", str(i), size=10 + i, modified=99)


def _fill(out: Path, num: int) -> bytes:
    with _journal(out) as journal:
        for i in range(num):
            journal.write(out / f"overlays/{i}.jpg", b"")
            journal.append(_source(i), {"i": i, "files": [f"overlays/{i}.jpg"]}, {"text": "tab\there\nand line" * i})
    return (out / ".journal/records.jsonl").read_bytes()


def test_records_come_back(tmp_path: Path) -> None:
    _fill(tmp_path, 4)
    with _journal(tmp_path) as journal:
        assert all(journal.is_done(_source(i)) for i in range(4)) and not journal.is_done(_source(4))
        assert journal.header(_source(2))["i"] == 2
        assert journal.body(_source(3)) == {"text": "tab\there\nand line" * 3}


def test_a_torn_end_at_any_byte_costs_only_the_last_record(tmp_path: Path) -> None:
    whole = _fill(tmp_path, 3)
    second = whole.index(b"\n", whole.index(b"\n") + 1) + 1
    path = tmp_path / ".journal/records.jsonl"
    for cut in range(second, len(whole)):
        path.write_bytes(whole[:cut])
        with _journal(tmp_path) as journal:
            assert [journal.is_done(_source(i)) for i in range(3)] == [True, True, False]
            journal.append(_source(2), {"i": 2, "files": ["overlays/2.jpg"]}, {"text": "tab\there\nand line" * 2})
        assert path.read_bytes() == whole


def test_a_damaged_record_is_passed_over(tmp_path: Path) -> None:
    whole = bytearray(_fill(tmp_path, 3))
    whole[whole.index(b'"1.png"') + 2] ^= 1
    (tmp_path / ".journal/records.jsonl").write_bytes(whole)
    with _journal(tmp_path) as journal:
        assert [journal.is_done(_source(i)) for i in range(3)] == [True, False, True]


def test_a_changed_file_is_not_done(tmp_path: Path) -> None:
    _fill(tmp_path, 1)
    with _journal(tmp_path) as journal:
        assert not journal.is_done(Source(Path("/x/0.png"), "0.png", "0", size=11, modified=99))
        assert not journal.is_done(Source(Path("/x/0.png"), "0.png", "other", size=10, modified=99))
        assert not journal.is_done(Source(Path("/y/0.png"), "0.png", "0", size=10, modified=99))
        assert (tmp_path / "overlays/0.jpg").exists()
        journal.forget(_source(1))
        journal.forget(Source(Path("/y/0.png"), "0.png", "0", size=10, modified=99))
        assert not (tmp_path / "overlays").exists()


def test_an_image_whose_files_have_vanished_is_not_done(tmp_path: Path) -> None:
    _fill(tmp_path, 2)
    (tmp_path / "overlays/1.jpg").unlink()
    with _journal(tmp_path) as journal:
        assert [journal.is_done(_source(i)) for i in range(2)] == [True, False]


@pytest.mark.parametrize(
    "name", ["../victim", "/victim", "victim", "overlays/../victim", "overlays/link/victim", "", 3]
)
def test_nothing_is_removed_but_outputs_of_runs(tmp_path: Path, name: object) -> None:
    """A journal may come with a folder from anywhere."""
    out, away = tmp_path / "out", tmp_path / "away"
    away.mkdir()
    (out / "overlays").mkdir(parents=True)
    (out / "overlays/link").symlink_to(away)
    victims = [folder / "victim" for folder in (tmp_path, out, away)]
    for victim in victims:
        victim.touch()
    if name == "/victim":
        name = str(victims[0])
    with _journal(out, overwrite=True) as journal:
        journal.append(_source(0), {"files": [name]}, {})
    with _journal(out) as journal:
        assert not journal.is_done(_source(0))
        journal.forget(_source(0))
    _journal(out, overwrite=True).__enter__().__exit__()
    assert all(victim.exists() for victim in victims)


@pytest.mark.parametrize("head", [[], {"name": 1}, {"files": "all"}, {"size": "large"}, "x"])
def test_records_that_no_run_writes_are_passed_over(tmp_path: Path, head: object) -> None:
    _fill(tmp_path, 1)
    if isinstance(head, dict):
        head = {"name": "1.png", "path": "/x/1.png", "output": "1", "size": 11, "modified": 99} | head
    text = json.dumps(head).encode() + b"\t{}"
    with open(tmp_path / ".journal/records.jsonl", "ab") as file:
        file.write(b"%08x\t%s\n" % (zlib.crc32(text), text))
    with _journal(tmp_path) as journal:
        assert journal.is_done(_source(0)) and not journal.is_done(_source(1))


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000])
def test_damaged_settings_are_one_sentence(tmp_path: Path, text: str) -> None:
    _fill(tmp_path, 1)
    (tmp_path / ".journal/run.json").write_text(text)
    with pytest.raises(UserError, match="journal is damaged: --overwrite"):
        _journal(tmp_path).__enter__()
    with _journal(tmp_path, overwrite=True) as journal:
        assert not journal.is_done(_source(0))


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    _fill(tmp_path, 1)
    with pytest.raises(UserError, match="--score was 0.5 and is 0.7.*--overwrite"):
        _journal(tmp_path, **{"--score": 0.7}).__enter__()
    for name in ("overlays/0.jpg", "overlays/mine.jpg", "predictions.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    with _journal(tmp_path, overwrite=True, **{"--score": 0.7}) as journal:
        assert not journal.is_done(_source(0))
    assert not (tmp_path / "overlays/0.jpg").exists() and not (tmp_path / "predictions.json").exists()
    assert (tmp_path / "overlays/mine.jpg").exists()


def test_files_of_others_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "overlays").mkdir()
    (tmp_path / "overlays/mine.jpg").write_text("x")
    with pytest.raises(UserError, match="holds overlays, which no earlier run made.*--overwrite"):
        _journal(tmp_path).__enter__()
    _journal(tmp_path, overwrite=True).__enter__().__exit__()
    assert (tmp_path / "overlays/mine.jpg").exists()


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with _journal(tmp_path):
        with pytest.raises(UserError, match="another process"):
            _journal(tmp_path).__enter__()
    _journal(tmp_path).__enter__().__exit__()


def test_files_are_whole_or_absent(tmp_path: Path) -> None:
    with _journal(tmp_path) as journal:
        journal.write(tmp_path / "a/b.txt", b"x")
        with pytest.raises(RuntimeError), journal.replacing(tmp_path / "c.txt") as handle:
            handle.write(b"half")
            raise RuntimeError
    assert (tmp_path / "a/b.txt").read_bytes() == b"x" and not (tmp_path / "c.txt").exists()
    assert sorted(p.name for p in (tmp_path / ".journal").iterdir()) == ["lock", "records.jsonl", "run.json"]
