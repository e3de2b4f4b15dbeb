"""Saving in the chosen format: by the formats' own writers, each file whole or not at all, over nobody else's."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from eachmask.data.builder import DatasetBuilder
from eachmask.data.dataset import Dataset
from eachmask.data.formats.coco_write import write_coco
from eachmask.data.formats.format import Format
from eachmask.data.images.files import images_left_in_place
from eachmask.data.reading import format_named
from eachmask.files.atomic import write_bytes
from eachmask.files.progress import no_progress
from eachmask.structures import UserError
from eachmask.studio.in_place import YAML, names_file, places, settled, unchanged, without_split
from eachmask.studio.merge import LISTED, MERGES, ONE_EACH, TABLED, Changes, merged
from eachmask.studio.project import Project


class ChangedOnDiskError(Exception):
    """Annotation files are not as the studio knows them."""

    def __init__(self, paths: list[str]) -> None:
        super().__init__("annotation files were changed by somebody else: save again to overwrite them")
        self.paths = paths


def dataset_of(project: Project, pages: Path | None = None) -> Dataset:
    """What is annotated; data sets know no pages, so that each page and each frame is an image of its own.

    Args:
        pages: folder that gets these images, where they are to be read.
    """
    builder = DatasetBuilder(project.categories)
    builder.add_split("all")
    for index in project.annotated():
        item = project.items[index]
        try:
            targets = project.targets(index)
            path = item.path if pages is None or item.is_file else item.store(pages)
        except UserError:  # a broken image: what is drawn on it stays in the journal
            continue
        builder.add("all", item.stored, path, targets)
    return builder.build()


def save(project: Project, form: str | None = None, overwrite: bool = False) -> tuple[Path, int]:
    """Write all annotations; returns where, and of how many images. What says the same as before stays as it is on the
    disk, unless ``overwrite`` is said.

    Raises:
        UserError: the folder may not be written to, or there is no such format.
        ChangedOnDiskError: files there are not as they were last read or written, and ``overwrite`` is not said.
    """
    with project.lock:
        if project.cannot_save:
            raise UserError(f"{project.folder} is read-only: start the studio with --labels in a folder of yours")
        chosen = format_named(form or project.format)
        _refuse_changed(project, overwrite)
        if overwrite or not project.disk or chosen.name != project.format:
            made = _made(project, chosen, _all(project))
        else:
            made = _changed(project, chosen)
        for path, content in made.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, content)
            project.disk[str(path)] = hashlib.sha256(content).hexdigest()  # should the disk be full at the next one
        for path in _left_over(project, chosen):
            path.unlink(missing_ok=True)
        project.format = chosen.name
        project.saved(project.digests())
        return project.labels, len(project.annotated())


def _all(project: Project) -> list[int]:
    """Places of all images that annotations speak of, or have to."""
    return sorted({*project.annotated(), *project.touched(), *project.known_places()})


def _made(project: Project, chosen: Format, indices: Sequence[int]) -> dict[Path, bytes]:
    """What the files of a format say of some images, by their places."""
    data = _as_read(project, indices)
    with tempfile.TemporaryDirectory() as scratch, images_left_in_place():
        if project.labels.suffix.lower() == ".json" and chosen.name == "coco":
            path = Path(scratch) / project.labels.name
            write_coco(path, [(image.name, image.targets) for _, image in data.images()])
            return {project.labels: path.read_bytes()}
        target = Path(scratch) / "new"
        target.mkdir()
        chosen.write(target, data, no_progress)
        made = {path.relative_to(target): path.read_bytes() for path in sorted(target.rglob("*")) if path.is_file()}
    disk = [Path(name) for name in project.disk] if chosen.name == project.format else []
    return _in_place(project, chosen, indices, disk, made)


def _in_place(
    project: Project, chosen: Format, indices: Sequence[int], disk: Sequence[Path], made: Mapping[Path, bytes]
) -> dict[Path, bytes]:
    """Made files, by where they belong."""
    root = project.labels
    where = places(list(made), root, disk, project.splits)
    images = {Path(project.stored(index)).with_suffix(""): project.items[index].path for index in indices}
    names = names_file(root, disk) if chosen.name == "yolo" else None
    found = {}
    for path, content in made.items():
        place, image = where[path], images.get(Path(*without_split(path, project.splits)).with_suffix(""))
        if names is not None and path.suffix in YAML:
            place, content = names, "".join(f"{c.name}\n" for c in project.categories).encode()
        elif disk and place not in disk and image is not None:
            place = settled(chosen.name, path, image, root, disk, project.splits)
        found[place] = content
    return found


def _as_read(project: Project, indices: Sequence[int]) -> Dataset:
    """Some images, in the splits and by the names that they have on the disk."""
    builder = DatasetBuilder(project.categories)
    for split in project.splits:
        builder.add_split(split)
    for index in indices:
        item = project.items[index]
        try:
            targets = project.targets(index)
        except UserError:  # a broken image: what is drawn on it stays in the journal
            continue
        builder.add(_split_of(project, index), project.stored(index), item.path, targets)
    return builder.build()


def _changed(project: Project, chosen: Format) -> dict[Path, bytes]:
    """What has to be written where most may stay; where files can be told apart, or be merged, it costs what the
    changed images cost."""
    touched = project.touched()
    if not touched and not project.categories_changed:
        return {}
    changes, found = _changes(project, touched), None
    if chosen.name in ONE_EACH:
        found = _of_each(project, chosen, touched, changes)
    elif chosen.name in LISTED:
        found = None if changes.fresh or project.categories_changed else _listed(project, chosen, touched)
    elif chosen.name in TABLED:
        found = _tabled(project, chosen, touched, changes)
    elif chosen.name in MERGES:
        found = _with_others(project, chosen, touched, changes)
    return _compared(project, chosen, touched) if found is None else found


def _of_each(project: Project, chosen: Format, touched: Sequence[int], changes: Changes) -> dict[Path, bytes]:
    bare = _made(project, chosen, []) if not project.categories_changed else {}
    made = {path: content for path, content in _made(project, chosen, touched).items() if path not in bare}
    return {path: _merged(project, chosen, path, content, changes) or content for path, content in made.items()}


def _listed(project: Project, chosen: Format, touched: Sequence[int]) -> dict[Path, bytes] | None:
    """None where files are called otherwise, by what others there are."""
    bare = _made(project, chosen, [])
    made = {path: content for path, content in _made(project, chosen, touched).items() if path not in bare}
    return made if all(str(path) in project.disk for path in made) else None


def _tabled(project: Project, chosen: Format, touched: Sequence[int], changes: Changes) -> dict[Path, bytes] | None:
    """None where there is no table yet, or its names do not tell images apart."""
    made = _made(project, chosen, touched)
    for path in _made(project, chosen, []):
        table = _merged(project, chosen, path, made[path], changes)
        if table is None:
            return None
        made[path] = table
    return made


def _with_others(project: Project, chosen: Format, touched: Sequence[int], changes: Changes) -> dict[Path, bytes]:
    """Files about many images."""
    made = _made(project, chosen, touched or project.known_places()[:1])  # one shows the classes
    merged_files = {path: _merged(project, chosen, path, content, changes) for path, content in made.items()}
    whole = {} if all(merged_files.values()) else _compared(project, chosen, touched)
    return {path: content for path, content in merged_files.items() if content} | {
        path: whole[path] for path, content in merged_files.items() if not content and path in whole
    }


def _changes(project: Project, touched: Sequence[int]) -> Changes:
    sizes, fresh = {}, set()
    for index in touched:
        name = project.stored(index)
        with suppress(UserError):  # a broken image: what is drawn on it stays in the journal
            sizes[name] = project.size(index)
        if project.names[index] not in project.known:
            fresh.add(name)
    of_all = [(_split_of(project, index), project.stored(index)) for index in _all(project)]
    of_all.sort(key=lambda image: project.splits.index(image[0]))
    return Changes(sizes, fresh, of_all)


def _split_of(project: Project, index: int) -> str:
    known = project.known.get(project.names[index])
    return project.splits[0] if known is None else known.part


def _merged(project: Project, chosen: Format, path: Path, content: bytes, changes: Changes) -> bytes | None:
    """A made file over the one that is there; None where there is none, or it cannot be merged."""
    there = str(path) in project.disk
    return merged(chosen.name, path, content, changes) if there and chosen.name in MERGES else None


def _compared(project: Project, chosen: Format, touched: Sequence[int]) -> dict[Path, bytes]:
    """The same of formats whose files say how many images there are, or how they are called."""
    indices = _all(project)
    made = _made(project, chosen, indices)
    same = _made(project, chosen, [index for index in indices if index not in touched])
    there = [path for path in made if str(path) in project.disk]
    left = unchanged(made, same, _made(project, chosen, []), there, project.categories_changed)
    return {path: content for path, content in made.items() if path not in left}


def _left_over(project: Project, chosen: Format) -> list[Path]:
    """Of a format with a file for each object, those of changed images that stand for none any more."""
    if chosen.name != "mask-files":
        return []
    unread = {problem.file for problem in project.problems}
    numbers: dict[tuple[str, ...], int] = {}
    for index in project.touched():
        with suppress(UserError):
            place = without_split(Path(project.stored(index)).with_suffix("") / "masks", project.splits)
            numbers[place] = len(project.targets(index))
    found = []
    for path in map(Path, project.disk):
        number = numbers.get(without_split(path.parent.relative_to(project.labels), project.splits))
        if number is not None and str(path) not in unread:
            found += [] if path.name in {f"{i:05d}.png" for i in range(1, number + 1)} else [path]
    return found


def _refuse_changed(project: Project, overwrite: bool) -> None:
    now = project.digests()
    changed = [name for name, digest in now.items() if project.disk.get(name) != digest]
    gone = [name for name in project.disk if name not in now]
    if (changed or gone) and not overwrite:
        raise ChangedOnDiskError([*changed, *gone])
