"""The formats that are known, in the order in which a data set is tried: what marks one without doubt comes first.

A new format is a file beside this one with a ``FORMAT``, and a line here.
"""

from __future__ import annotations

from eachmask.data.formats import cityscapes, coco, cvat, label_map_folder, labelme, mask_files, voc, yolo

FORMATS = (
    cityscapes.FORMAT,
    voc.FORMAT,
    cvat.FORMAT,
    yolo.FORMAT,
    coco.FORMAT,
    label_map_folder.FORMAT,
    mask_files.FORMAT,
    labelme.FORMAT,
)
