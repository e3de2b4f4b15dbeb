"""What is written of instances: label maps, crops, outlines and tables per image, COCO and one table of all images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from eachmask.data.formats import table
from eachmask.data.formats.crops import crops
from eachmask.data.formats.geojson import to_geojson, to_polygon_list
from eachmask.data.formats.label_maps import encode_label_map, label_map_suffix
from eachmask.files.journal import compact_json
from eachmask.structures import Instances, UserError
from eachmask.structures.coco import category_to_dict, to_annotations
from eachmask.tasks.records import Records, class_counts, coco_images, mean_score
from eachmask.tasks.task import About, Known, Outputs, Record, Written

if TYPE_CHECKING:
    from eachmask.draw import RGBImage


def record(name: str, found: Instances, image: NDArray[Any]) -> Record:
    """Counts, and the rows of predictions.json and instances.csv."""
    header = {
        "height": image.shape[0],
        "width": image.shape[1],
        "objects": len(found),
        "mean_score": mean_score([] if found.scores is None else found.scores.tolist()),
        "classes": class_counts(found.label_names),
        "masks": found.masks is not None,
    }
    rows = table.to_csv(table.rows(name, found, image), header=False, columns=_columns(found))
    return Record(header, {"annotations": to_annotations(found), "table": rows})


def named(canvas: RGBImage, found: Instances) -> RGBImage:
    """Classes and scores on an overlay, where there are not too many objects for words."""
    from eachmask.draw import DrawOptions, write_names

    return write_names(canvas, found) if len(found) <= DrawOptions.crowded else canvas


def _labels(name: str, found: Instances, image: NDArray[Any]) -> Written:
    if found.masks is None:
        raise UserError("label maps need masks, and this model finds boxes only")
    data, hidden = encode_label_map(found.masks)
    return Written({label_map_suffix(len(found)): data}, hidden)


def _crops(name: str, found: Instances, image: NDArray[Any]) -> Written:
    return Written({f"/{file}": data for file, data in crops(found, image)})


def _polygons(name: str, found: Instances, image: NDArray[Any]) -> Written:
    return Written({".json": compact_json(to_polygon_list(found)).encode()})


def _csv(name: str, found: Instances, image: NDArray[Any]) -> Written:
    return Written({".csv": table.to_csv(table.rows(name, found, image), columns=_columns(found)).encode()})


def _csv_completed(data: bytes, found: Instances, known: Known) -> bytes:
    sized = known.pixel_size is not None
    return _completed(data.decode(), _columns(found), known, len(known.channels), sized).encode()


def _completed(text: str, columns: tuple[str, ...], known: Known, num_channels: int, sized: bool) -> str:
    """A table's rows with intensities in so many channels, and with micrometers, as far as they are known."""
    if num_channels:
        text = table.with_channels(text, known.channels, num_channels, columns)
        columns = (*columns, *table.channel_columns(num_channels))
    return table.with_units(text, known.pixel_size, columns) if sized else text


def _columns(found: Instances) -> tuple[str, ...]:
    return table.columns(found.categories, found.masks is not None)


def _geojson(name: str, found: Instances, image: NDArray[Any]) -> Written:
    return Written({".geojson": compact_json(to_geojson(found)).encode()})


def predictions(records: Records, about: About) -> Iterator[str]:
    """COCO: info, images, categories, annotations with RLE and score; one image or annotation per line.

    Image ids are the places in the list of inputs from 1, so that an image that failed leaves a gap and moves no
    other. ``label`` is the object's number in its image, as in label maps, crops and the table.
    """
    yield from coco_images(records, about)
    categories = [category_to_dict(category) for category in about.categories]
    yield f'],\n"categories":{compact_json(categories)},\n"annotations":['
    count = 0
    for image in records():
        for label, annotation in enumerate(image.record.body["annotations"], start=1):
            row = {"id": count + 1, "image_id": image.number, "label": label, **annotation}
            yield f"{',' if count else ''}\n{compact_json(row)}"
            count += 1
    yield "]}\n"


def measures(records: Records, about: About) -> Iterator[str]:
    """One row of measures per object; with each channel's intensity and micrometers where any image's are known."""
    with_masks = any(image.record.header["masks"] for image in records())
    sized = any(image.record.header.get("pixel_size") for image in records())
    channels = max((image.record.header.get("channels", 0) for image in records()), default=0)
    columns = table.columns(about.categories, with_masks)
    yield _completed(table.to_csv((), columns=columns), columns, Known(), channels, sized)
    for image in records():
        header, body = image.record.header, image.record.body
        known = Known(header.get("pixel_size"), tuple(body.get("channels", ())))
        yield _completed(body["table"], columns, known, channels, sized)


OUTPUTS: Outputs[Instances] = Outputs(
    record=record,
    named=named,
    writers={"labels": _labels, "crops": _crops, "polygons": _polygons, "csv": _csv, "geojson": _geojson},
    completed={"csv": _csv_completed},
    intensities=table.intensities,
    collections={"predictions.json": predictions, "instances.csv": measures},
)
