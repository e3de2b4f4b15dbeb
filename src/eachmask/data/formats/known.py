"""The formats that are known, in the order in which a data set is tried: what marks one without doubt comes first.

A new format is a file beside this one with a ``FORMAT``, and a line here.
"""

from __future__ import annotations

from eachmask.data.formats import (
    ade20k,
    cellpose,
    cityscapes,
    cityscapes_maps,
    cityscapes_panoptic,
    class_maps,
    coco,
    coco_panoptic,
    color_maps,
    cvat,
    cvppp,
    darknet,
    datumaro,
    imagej,
    indoor_maps,
    label_map_folder,
    label_studio,
    labelme,
    mask_files,
    mattes,
    qupath,
    via,
    voc,
    voc_maps,
    yolo,
)

FORMATS = (
    cityscapes.FORMAT,
    voc.FORMAT,
    cvat.FORMAT,
    darknet.FORMAT,
    yolo.FORMAT,
    datumaro.FORMAT,
    coco.FORMAT,
    coco_panoptic.FORMAT,
    cityscapes_panoptic.FORMAT,
    mattes.FORMAT,
    label_map_folder.FORMAT,
    color_maps.FORMAT,
    ade20k.FORMAT,
    voc_maps.PASCAL_CONTEXT,
    voc_maps.VOC,
    cityscapes_maps.FORMAT,
    indoor_maps.FORMAT,
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
