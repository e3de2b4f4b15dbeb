"""Images within other files and in buckets: tars (WebDataset), Parquet with image bytes, and what fsspec opens.

A member is where an image lies, not its bytes: those are read when its turn comes, by whoever predicts it. A tar is
indexed by its headers alone, of Parquet only the column of names is read.
"""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from eachmask.data.images.read import SUFFIXES
from eachmask.structures import UserError

ARCHIVES = (".tar", ".parquet")
_NAMES = ("path", "file_name", "filename", "name", "__key__", "key", "id")
"""Columns that may name a row's image."""


@dataclass(frozen=True)
class Member:
    """An image that is no file of its own."""

    place: str
    """Path or address of what it lies in, or its own address."""
    name: str
    size: int
    modified: int
    """A number that changes with the content of ``place``."""
    offset: int = 0
    """First byte; of a row of Parquet its number."""
    column: str = ""
    """Of Parquet; dotted where the bytes are a field."""

    @property
    def path(self) -> Path:
        """What stands for it where images have paths: nothing lies there."""
        return self._place / self.name if self._place.suffix.lower() in ARCHIVES else self._place

    @property
    def base(self) -> Path:
        """The folder that what it lies in, or itself, is in."""
        return self._place.parent

    @property
    def _place(self) -> Path:
        return Path("/" + self.place.replace("://", "/")) if is_address(self.place) else Path(self.place)

    def content(self) -> bytes:
        """Its bytes.

        Raises:
            UserError: they cannot be had.
        """
        with _reading(self.place):
            if self.column:
                return _row(self)
            with _opened(self.place) as file:
                file.seek(self.offset)
                return bytes(file.read(self.size))

    @contextmanager
    def at_hand(self) -> Iterator[Path]:
        """A file of its content, as long as the block lasts; what is said of the file there is said of the image."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"image{PurePosixPath(self.name).suffix}"
            path.write_bytes(self.content())
            try:
                yield path
            except UserError as error:
                raise UserError(str(error).replace(str(path), str(self.path))) from None


def is_address(text: str) -> bool:
    """Whether fsspec opens it: ``s3://bucket/folder``, ``gs://``, ``az://``, ``memory://`` ..., not http."""
    scheme, found, _ = text.partition("://")
    return bool(found) and scheme.isalnum() and scheme.lower() not in ("http", "https", "file")


def holds_members(entry: str) -> bool:
    """Whether an input is an archive, or lies where files are reached by addresses."""
    return is_address(entry) or (PurePosixPath(entry).suffix.lower() in ARCHIVES and Path(entry).is_file())


def members(entry: str) -> list[Member]:
    """All images in an archive, a bucket's folder, or the archives in it, by their names.

    Raises:
        UserError: it cannot be read, or a package is missing.
    """
    if not is_address(entry):
        status = Path(entry).stat()
        return _in_file(str(Path(entry).absolute()), status.st_size, status.st_mtime_ns)
    with _reading(entry):
        import fsspec

        files, root = fsspec.core.url_to_fs(entry)
        found = files.find(root, detail=True)
    if not found:
        raise UserError(f"nothing is at {entry}")
    rows = ((files.unstrip_protocol(name), info) for name, info in sorted(found.items()))
    return [member for place, info in rows for member in _in_file(place, info["size"], _state(info))]


def _state(info: dict[str, Any]) -> int:
    """Of an object: its ETag or time of change as a number."""
    said = next((info[key] for key in ("ETag", "etag", "LastModified", "mtime", "created") if info.get(key)), "")
    return int.from_bytes(hashlib.sha256(str(said).encode()).digest()[:6], "big")


def _in_file(place: str, size: int, modified: int) -> list[Member]:
    suffix = PurePosixPath(place).suffix.lower()
    if suffix == ".tar":
        return _in_tar(place, modified)
    if suffix == ".parquet":
        return _in_parquet(place, modified)
    return [Member(place, PurePosixPath(place).name, size, modified)] if suffix in SUFFIXES else []


def _in_tar(place: str, modified: int) -> list[Member]:
    try:
        with _reading(place), _opened(place) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            found = [one for one in archive if one.isfile() and PurePosixPath(one.name).suffix.lower() in SUFFIXES]
    except tarfile.TarError as error:
        raise UserError(f"{place} is no tar that can be read ({error}): compressed ones are unpacked first") from None
    return [Member(place, _safe(one.name), one.size, modified, one.offset_data) for one in found]


def _safe(name: str) -> str:
    """Without what would lead out of a folder."""
    return "/".join(part for part in name.split("/") if part not in ("", ".", ".."))


def _in_parquet(place: str, modified: int) -> list[Member]:
    with _reading(place), _opened(place) as file:
        table = _parquet().ParquetFile(file)
        column = _bytes_column(table.schema_arrow, place)
        outer = column.partition(".")[0]
        names = [f"{outer}.path"] if "." in column else [n for n in _NAMES if n in table.schema_arrow.names][:1]
        rows = table.read(columns=names).to_pylist() if names else [{}] * table.metadata.num_rows
    found = []
    for number, row in enumerate(rows):
        said = (row.get(outer) or {}).get("path") if "." in column else next(iter(row.values()), None)
        name = f"{number:08d}" + ("" if said is None else f"-{PurePosixPath(str(said)).name}")
        found.append(Member(place, name, 0, modified, number, column))
    return found


def _bytes_column(schema: Any, place: str) -> str:
    import pyarrow

    for field in schema:
        if pyarrow.types.is_binary(field.type) or pyarrow.types.is_large_binary(field.type):
            return str(field.name)
        if pyarrow.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            return f"{field.name}.bytes"
    raise UserError(f"{place} has no column of image bytes")


def _row(member: Member) -> bytes:
    number = member.offset
    for group, rows in enumerate(_rows_of_groups(member.place, member.modified)):
        if number < rows:
            value = _group(member.place, member.modified, member.column, group)[number].as_py()
            return bytes(value["bytes"] if isinstance(value, dict) else value)
        number -= rows
    raise ValueError("it has fewer rows than before")


@lru_cache(maxsize=8)
def _rows_of_groups(place: str, modified: int) -> list[int]:
    with _opened(place) as file:
        about = _parquet().ParquetFile(file).metadata
        return [about.row_group(group).num_rows for group in range(about.num_row_groups)]


@lru_cache(maxsize=1)  # a group is read as a whole, and its rows are asked for one after the other
def _group(place: str, modified: int, column: str, group: int) -> Any:
    with _opened(place) as file:
        return _parquet().ParquetFile(file).read_row_group(group, columns=[column]).column(0)


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError("Parquet needs the package pyarrow: pip install 'eachmask[parquet]'") from None
    return pyarrow.parquet


@contextmanager
def _reading(place: str) -> Iterator[None]:
    """What goes wrong meanwhile, told with the place. Behind fsspec each service has exceptions of its own, for absent
    credentials, say, that derive from nothing that all share."""
    try:
        yield
    except (UserError, tarfile.TarError):
        raise
    except ImportError as error:
        if error.name is None:  # fsspec says by itself which package it wants
            raise UserError(f"{place} cannot be read ({error})") from None
        raise UserError(f"{place} needs the package {error.name}: install it with pip") from None
    except Exception as error:
        if not is_address(place) and not isinstance(error, (OSError, ValueError, KeyError)):
            raise
        raise UserError(f"{place} cannot be read ({error})") from None


def _opened(place: str) -> Any:
    if not is_address(place):
        return open(place, "rb")
    import fsspec

    return fsspec.open(place, "rb").open()
