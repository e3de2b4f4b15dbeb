"""Lists in JSON files that are not held in memory say what json.loads says."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eachmask.files import json_lists
from eachmask.files.json_lists import JsonList, read_object
from eachmask.structures import UserError

ENTRIES = [
    1,
    -2.5e300,
    1e-7,
    'ü\n"]',
    [],
    {},
    None,
    True,
    {"a": [1, {"b": "}]"}]},
    "😀",
    12345678901234567890,
    [[1.5, 2]] * 9,
]


def _read(path: Path) -> dict[str, Any]:
    return read_object(path, {"rows": JsonList})


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1 << 18], ids="window of {}".format)
@pytest.mark.parametrize("ascii_", [True, False], ids=["escaped", "utf-8"])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "with a mark"])
def test_entries_are_found_wherever_the_window_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, ascii_: bool, indent: int | None, mark: str
) -> None:
    monkeypatch.setattr(json_lists, "_CHUNK", chunk)
    content = {"näme": ["é", 3], "rows": ENTRIES, "more": {"x": None}, "n": 12345}
    path = tmp_path / "a.json"
    path.write_text(mark + json.dumps(content, ensure_ascii=ascii_, indent=indent) + "\n", encoding="utf-8")
    found = _read(path)
    rows = found["rows"]
    assert isinstance(rows, JsonList) and list(rows) == ENTRIES and len(rows) == len(ENTRIES)
    assert {**found, "rows": ENTRIES} == content
    assert (
        rows[2] == ENTRIES[2] and rows[-1] == ENTRIES[-1] and rows[3:6] == ENTRIES[3:6] and rows[::-2] == ENTRIES[::-2]
    )
    assert rows.take([4, 5, 6]) == ENTRIES[4:7] and rows.take([8, 2, 2]) == [ENTRIES[8], ENTRIES[2], ENTRIES[2]]
    assert rows.take([]) == []
    with pytest.raises(IndexError):
        rows[len(ENTRIES)]


def test_random_files_read_as_json_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lists, "_CHUNK", 16)
    rng = np.random.default_rng(0)
    for number in range(40):
        rows = [
            {"id": int(i), "é" * (i % 3): rng.uniform(-9, 9, int(rng.integers(0, 9))).tolist()} for i in range(number)
        ]
        path = tmp_path / "a.json"
        path.write_text(json.dumps({"rows": rows}, ensure_ascii=False), encoding="utf-8")
        assert list(_read(path)["rows"]) == rows


def test_what_is_no_list_is_parsed_and_what_is_no_object_has_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text, expected in (('{"rows": 3}', {"rows": 3}), ("{}", {}), ("[1, 2]", {}), ("7", {}), ("null", {})):
        path.write_text(text)
        assert _read(path) == expected


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b"", "not valid JSON"),
        (b"\x00", "not valid JSON"),
        (b'{"rows": [1, 2', "at byte 14.* cut off"),
        (b'{"rows": [1, {"a": ', "cut off"),
        (b'{"rows": [1, "abc', "cut off"),
        (b'{"rows": [1 2]}', "expecting , or ], at byte 12"),
        (b'{"rows": [1,]}', "not valid JSON"),
        (b'{"rows": [1]', "expecting , or }"),
        (b'{"rows": [1]} x', "more behind its end"),
        (b'{"rows" [1]}', "expecting :"),
        (b"{3: 1}", "a name in quotes"),
        (b"{} {}", "more behind its end"),
        (b'{"rows": ["\xff"]}', "not a text file"),
        (b'{"rows": ["\xc3', "not a text file"),
    ],
)
def test_mistakes_name_the_file(tmp_path: Path, text: bytes, what: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text)
    with pytest.raises(UserError, match=what) as caught:
        _read(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.json cannot be read"):
        _read(tmp_path / "none.json")


def test_memory_does_not_follow_the_file(tmp_path: Path) -> None:
    path, number = tmp_path / "a.json", 20_000
    path.write_text(json.dumps({"rows": [{"id": i, "values": [0.25] * 50} for i in range(number)]}))  # in memory 38 MB
    assert len(list(_read(path)["rows"])) == number  # what is imported by then is not counted
    tracemalloc.start()
    try:
        rows = _read(path)["rows"]
        assert sum(row["id"] for row in rows) == number * (number - 1) // 2
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12e6
