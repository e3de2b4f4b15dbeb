"""The formats that are known, in the order in which a data set is tried: what marks one without doubt comes first.

A new format is a file beside this one with a ``FORMAT``, and a line here.
"""

from __future__ import annotations

from eachmask.data.formats import (
    cellpose,
    cityscapes,
    class_maps,
    coco,
    cvat,
    cvppp,
    datumaro,
    imagej,
    label_map_folder,
    label_studio,
    labelme,
    mask_files,
    mattes,
    qupath,
    via,
    voc,
    yolo,
)

FORMATS = (
    cityscapes.FORMAT,
    voc.FORMAT,
    cvat.FORMAT,
    yolo.FORMAT,
    datumaro.FORMAT,
    coco.FORMAT,
    mattes.FORMAT,
    label_map_folder.FORMAT,
    class_maps.FORMAT,
    mask_files.FORMAT,
    labelme.FORMAT,
    via.FORMAT,
    label_studio.FORMAT,
    qupath.FORMAT,
    imagej.FORMAT,
    cvppp.FORMAT,
    cellpose.FORMAT,
)
