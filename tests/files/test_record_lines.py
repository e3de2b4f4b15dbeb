"""Lines with checksums: what is whole comes back, what was torn or damaged does not."""

from __future__ import annotations

from pathlib import Path

from eachmask.files.record_lines import RecordLines


def test_lines_come_back_and_can_be_read_one_by_one(tmp_path: Path) -> None:
    lines = RecordLines(tmp_path / "lines")
    places = [lines.append(text) for text in ("first", "with\ttabs", "ü")]
    assert [(offset, text.decode()) for offset, text in lines] == list(
        zip(places, ("first", "with\ttabs", "ü"), strict=True)
    )
    assert lines.at(places[1]).rstrip(b"\n") == b"with\ttabs"
    lines.append("behind", synced=True)  # reading moves where nothing is written
    assert [text for _, text in lines][-1] == b"behind"
    lines.clear()
    assert list(lines) == []
    lines.close()


def test_a_torn_line_is_cut_off_and_a_damaged_one_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    lines = RecordLines(path)
    for text in ("one", "two", "three"):
        lines.append(text)
    lines.close()
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"two", b"owt") + b"00000000\tfour")
    lines = RecordLines(path)
    assert [text for _, text in lines] == [b"one", b"three"]
    assert path.read_bytes() == whole.replace(b"two", b"owt")
    lines.append("four")
    assert [text for _, text in lines] == [b"one", b"three", b"four"]
    lines.close()
