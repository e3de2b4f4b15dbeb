from __future__ import annotations

import tracemalloc
from collections import deque
from pathlib import Path
from xml.etree import ElementTree

import pytest

from eachmask.files import untrusted_xml
from eachmask.files.untrusted_xml import children_of_root, parse_xml, write_children, write_xml
from eachmask.structures import UserError

CHILD = '<image name="a"><polygon points="1,1;2,2;3,1"/>text</image>'


def _file(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "a.xml"
    path.write_bytes(text.encode(encoding))
    return path


def test_children_come_whole_one_after_the_other(tmp_path: Path) -> None:
    path = _file(tmp_path, f"<root a='1'>\n <meta/>{CHILD * 3000} </root>")  # longer than what is read at once
    found = [ElementTree.tostring(child, encoding="unicode").strip() for child in children_of_root(path, "root")]
    assert found == ["<meta />", *[CHILD.replace('"/>', '" />')] * 3000]


def test_memory_does_not_follow_the_file(tmp_path: Path) -> None:
    path = _file(tmp_path, f"<root>{CHILD.replace('text', 'text' * 400) * 20_000}</root>")
    deque(children_of_root(path, "root"), maxlen=0)  # what is imported by then is not counted
    tracemalloc.start()
    try:
        deque(children_of_root(path, "root"), maxlen=0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12e6 < path.stat().st_size / 2


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("before", ["", f"<!--{'x' * 200_000}-->"], ids=["at once", "after a long comment"])
def test_a_doctype_is_refused_before_anything_is_read(tmp_path: Path, encoding: str, before: str) -> None:
    bomb = f'<?xml version="1.0" encoding="{encoding}"?>{before}<!DOCTYPE r [<!ENTITY a "ha">]><root><b>&a;</b></root>'
    path = _file(tmp_path, bomb, encoding)
    with pytest.raises(UserError, match="DOCTYPE"):
        next(children_of_root(path, "root"))
    with pytest.raises(UserError, match="DOCTYPE"):
        parse_xml(path)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (f"<root>{CHILD * 3000}", "not valid XML .*cut off"),
        (f"<root>{CHILD * 3000}<image name='b", "not valid XML .*cut off"),
        ("", "not valid XML"),
        (f"<root>{CHILD}<!DOCTYPE r [<!ENTITY a 'ha'>]>&a;</root>", "not valid XML"),
        ("<root>&a;</root>", "not valid XML"),
        (f"<other>{CHILD}</other>", "must be <root>, not <other>"),
    ],
)
def test_mistakes_name_the_file(tmp_path: Path, text: str, what: str) -> None:
    path = _file(tmp_path, text)
    with pytest.raises(UserError, match=what) as caught:
        deque(children_of_root(path, "root"), maxlen=0)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.xml cannot be read"):
        next(children_of_root(tmp_path / "none.xml", "root"))


def test_one_piece_that_is_too_large_is_refused_many_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untrusted_xml, "_MAX_BYTES", 400_000)
    small, large = f"<a>{'x' * 1000}</a>", f"<a>{'x' * 500_000}</a>"
    assert len(list(children_of_root(_file(tmp_path, f"<root>{small * 2000}</root>"), "root"))) == 2000
    with pytest.raises(UserError, match="in one piece"):
        list(children_of_root(_file(tmp_path, f"<root>{small}{large}</root>"), "root"))
    with pytest.raises(UserError, match="in one piece"):
        parse_xml(tmp_path / "a.xml")


def test_what_is_written_piece_by_piece_reads_as_what_is_written_whole(tmp_path: Path) -> None:
    def children() -> list[ElementTree.Element]:
        return list(ElementTree.fromstring(f"<root><a><b/></a><c>ü &lt;</c>{CHILD.replace('text', '')}</root>"))

    root = ElementTree.Element("root")
    root.extend(children())
    write_xml(tmp_path / "whole.xml", root)
    write_children(tmp_path / "column_runs.xml", "root", iter(children()))
    assert (tmp_path / "column_runs.xml").read_bytes() == (tmp_path / "whole.xml").read_bytes()
