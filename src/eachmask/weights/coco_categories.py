"""COCO's object categories as torchvision's detection weights know them: one label for each id 1..90.

Ten ids were never used by the data set. The official weights still have an output for each, so they are kept as
categories named "N/A": label index = id - 1 everywhere, and the ids in written results are COCO's own.
"""

from __future__ import annotations

from dataclasses import replace

from eachmask.structures import Category
from eachmask.structures.class_lists import ADE20K_CATEGORIES, CITYSCAPES_CATEGORIES

_NAMES: dict[str, dict[int, str]] = {
    "person": {1: "person"},
    "vehicle": {
        2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train", 8: "truck", 9: "boat",
    },
    "outdoor": {10: "traffic light", 11: "fire hydrant", 13: "stop sign", 14: "parking meter", 15: "bench"},
    "animal": {
        16: "bird", 17: "cat", 18: "dog", 19: "horse", 20: "sheep", 21: "cow", 22: "elephant", 23: "bear",
        24: "zebra", 25: "giraffe",
    },
    "accessory": {27: "backpack", 28: "umbrella", 31: "handbag", 32: "tie", 33: "suitcase"},
    "sports": {
        34: "frisbee", 35: "skis", 36: "snowboard", 37: "sports ball", 38: "kite", 39: "baseball bat",
        40: "baseball glove", 41: "skateboard", 42: "surfboard", 43: "tennis racket",
    },
    "kitchen": {44: "bottle", 46: "wine glass", 47: "cup", 48: "fork", 49: "knife", 50: "spoon", 51: "bowl"},
    "food": {
        52: "banana", 53: "apple", 54: "sandwich", 55: "orange", 56: "broccoli", 57: "carrot", 58: "hot dog",
        59: "pizza", 60: "donut", 61: "cake",
    },
    "furniture": {
        62: "chair", 63: "couch", 64: "potted plant", 65: "bed", 67: "dining table", 70: "toilet",
    },
    "electronic": {72: "tv", 73: "laptop", 74: "mouse", 75: "remote", 76: "keyboard", 77: "cell phone"},
    "appliance": {78: "microwave", 79: "oven", 80: "toaster", 81: "sink", 82: "refrigerator"},
    "indoor": {
        84: "book", 85: "clock", 86: "vase", 87: "scissors", 88: "teddy bear", 89: "hair drier", 90: "toothbrush",
    },
}  # fmt: skip

_USED = {id_: Category(id_, name, group) for group, names in _NAMES.items() for id_, name in names.items()}

COCO_CATEGORIES = tuple(_USED.get(id_, Category(id_, "N/A")) for id_ in range(1, 91))
"""90 categories; ``COCO_CATEGORIES[label].id == label + 1``."""

_STUFF: dict[str, dict[int, str]] = {
    "textile": {
        92: "banner", 93: "blanket", 109: "curtain", 141: "pillow", 168: "towel", 200: "rug-merged",
    },
    "building": {
        95: "bridge", 128: "house", 151: "roof", 166: "tent", 197: "building-other-merged",
    },
    "raw-material": {100: "cardboard", 195: "paper-merged"},
    "furniture-stuff": {
        107: "counter", 112: "door-stuff", 130: "light", 133: "mirror-stuff", 156: "shelf", 161: "stairs",
        188: "cabinet-merged", 189: "table-merged",
    },
    "floor": {118: "floor-wood", 190: "floor-other-merged"},
    "plant": {119: "flower", 184: "tree-merged", 193: "grass-merged"},
    "food-stuff": {122: "fruit", 196: "food-other-merged"},
    "ground": {
        125: "gravel", 144: "platform", 145: "playingfield", 147: "railroad", 149: "road", 154: "sand", 159: "snow",
        191: "pavement-merged", 194: "dirt-merged",
    },
    "solid": {192: "mountain-merged", 198: "rock-merged"},
    "structural": {138: "net", 185: "fence-merged"},
    "water": {148: "river", 155: "sea", 178: "water-other"},
    "wall": {
        171: "wall-brick", 175: "wall-stone", 176: "wall-tile", 177: "wall-wood", 199: "wall-other-merged",
    },
    "window": {180: "window-blind", 181: "window-other"},
    "ceiling": {186: "ceiling-merged"},
    "sky": {187: "sky-other-merged"},
}  # fmt: skip

PANOPTIC = (
    *_USED.values(),
    *sorted(
        (Category(id_, name, group, False) for group, names in _STUFF.items() for id_, name in names.items()),
        key=lambda category: category.id,
    ),
)
"""The 80 things and 53 kinds of stuff of COCO's panoptic maps, by id."""

_KEYPOINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip
_SKELETON = (
    (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10),
    (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
)  # fmt: skip

PERSON = (replace(COCO_CATEGORIES[0], keypoints=_KEYPOINTS, skeleton=_SKELETON),)
"""The one category of the keypoint models."""

ANYTHING = (Category(1, "object"),)
"""The one category of models that find objects without naming them."""

FOREGROUND = (Category(1, "foreground"),)
"""Of networks of mattes, as data sets of mattes have it."""

VOC = (
    Category(0, "background", is_thing=False),
    *(
        Category(number, name)
        for number, name in enumerate(
            "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
            "pottedplant sheep sofa train tvmonitor".split(),
            start=1,
        )
    ),
)
"""The 21 classes of PASCAL VOC's label maps; an id is the value of a pixel."""

SETS = {
    "coco-91": COCO_CATEGORIES,
    "coco-80": tuple(category for category in COCO_CATEGORIES if category.name != "N/A"),
    "coco-panoptic-133": PANOPTIC,
    "coco-person": PERSON,
    "anything": ANYTHING,
    "foreground": FOREGROUND,
    "cell": (Category(1, "cell"),),
    "voc-21": VOC,
    "cityscapes-19": CITYSCAPES_CATEGORIES,
    "ade20k-150": ADE20K_CATEGORIES,
}
"""Name in the catalogue -> categories: COCO's 91 ids with their gaps; the 80 that are used, without; these and 53 of
stuff; people; objects of whatever kind; what mattes are of; cells; the label maps of PASCAL VOC, Cityscapes, ADE20K."""
