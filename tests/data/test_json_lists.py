from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eachmask.data import json_lists
from eachmask.data.json_lists import JsonList, read_object
from eachmask.structures import UserError

ENTRIES: list[Any] = [{"name": 'Straße "[]{}, \\', "numbers": [1, 2.5, -3e9]}, 12, "ключ", [], {}, None, "𝛼" * 40, True]


@pytest.fixture(autouse=True, params=[4, 7, 1 << 18])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows that end anywhere: in a number, in a character, behind a backslash."""
    monkeypatch.setattr(json_lists, "_CHUNK", request.param)


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_entries_are_those_that_the_whole_file_has(tmp_path: Path, ascii_only: bool, indent: int | None, mark: str):
    content = {"info": {"é": [1]}, "rows": ENTRIES, "other": [1, 2], "empty": [], "end": 123}
    path = tmp_path / "a.json"
    path.write_text(mark + json.dumps(content, ensure_ascii=ascii_only, indent=indent) + "\n ", encoding="utf-8")
    found = read_object(path, {"rows": JsonList, "empty": JsonList})
    rows = found["rows"]
    assert isinstance(rows, JsonList) and list(rows) == ENTRIES and len(rows) == len(ENTRIES)
    assert rows[0] == ENTRIES[0] and rows[2:5] == ENTRIES[2:5] and rows[-1] is True
    assert rows.take([6, 1, 2]) == [ENTRIES[6], 12, "ключ"] and rows.take([]) == []
    assert list(found["empty"]) == []
    assert {k: v for k, v in found.items() if k not in ("rows", "empty")} == {"info": {"é": [1]}, "other": [1, 2],
                                                                           "end": 123}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"rows": [1, 2', "is not valid JSON"),
        ('{"rows": [1, 2]', "is not valid JSON"),
        ('{"rows": [1 2]}', "is not valid JSON"),
        ('{"rows": [1]} x', "behind its end"),
        ('{"rows": ["abc', "is not valid JSON"),
    ],
)
def test_a_broken_file_is_a_sentence_with_its_place(tmp_path: Path, text: str, reason: str):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(UserError, match=f"broken.json.*{reason}.*byte"):
        read_object(path, {"rows": JsonList})


def test_what_is_no_object_or_no_text(tmp_path: Path):
    path = tmp_path / "list.json"
    path.write_text("[1, 2]")
    assert read_object(path, {"rows": JsonList}) == {}
    path.write_bytes(b'{"rows": ["\xff\xfe"]}')
    with pytest.raises(UserError, match="not a text file"):
        read_object(path, {"rows": JsonList})
    with pytest.raises(UserError, match="cannot be read"):
        read_object(tmp_path / "missing.json", {})
