"""Which models can be had by name, where their weights come from, and what is said about them by whom.

Bundled models are files beside this module, and each file speaks for itself (``weights.file.read_info``). The
catalogue holds what cannot be bundled: weights that others publish. Their scores are *published* ones, reported by
the source; scores that we measured are in the model files alone, so that the two are never mixed up.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from eachmask.structures import Category, Preprocess, UserError
from eachmask.weights.coco_categories import COCO_CATEGORIES, PERSON
from eachmask.weights.file import ModelInfo

BUNDLED = Path(__file__).parent / "bundled"
"""Folder of the models that the package brings along."""


@dataclass(frozen=True)
class Entry:
    """Weights that somebody else publishes."""

    name: str
    """What the user types; also the name of the variant function that these weights fit."""
    summary: str
    """One line for lists."""
    url: str
    sha256: str
    """Hexadecimal SHA-256 of the file at ``url``, or the leading digits of it where the source publishes no more."""
    size_mb: float
    """Of the download, in units of a million bytes."""
    published: Mapping[str, float]
    """Scores as the source reports them, COCO val2017, in per cent."""
    license: str
    source: str
    """Who publishes the weights, in words."""
    categories: tuple[Category, ...] = COCO_CATEGORIES
    preprocess: Preprocess = field(default_factory=Preprocess)
    config: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the variant function that these weights want."""
    converter: str = "from_torchvision"
    """Module below ``eachmask.weights`` whose ``convert`` renames the source's entries to ours."""

    @property
    def host(self) -> str:
        """Where the download comes from."""
        return urlsplit(self.url).hostname or self.url

    def info(self, sha256: str | None = None) -> ModelInfo:
        """Header of the model file that the download becomes.

        Args:
            sha256: the whole digest of the file that was read; by default as much of it as is published.
        """
        return ModelInfo(
            variant=self.name,
            config=dict(self.config),
            preprocess=self.preprocess,
            categories=self.categories,
            license=self.license,
            training={"source": self.source, "url": self.url, "sha256": sha256 or self.sha256},
            name=self.name,
            card=self.card(),
        )

    def card(self) -> str:
        """The model card, Markdown."""
        scores = ", ".join(f"{name} {value:.1f}" for name, value in self.published.items())
        used = sum(category.name != "N/A" for category in self.categories)
        return (
            f"# {self.name}\n\n{self.summary}.\n\n"
            f"- Weights: {self.source}, {self.size_mb:.0f} MB from {self.host}, fetched on first use\n"
            f"- Published scores (COCO val2017, per cent): {scores}\n"
            f"- Categories: {used} of COCO's\n"
            f"- License: {self.license}\n"
        )


_TORCHVISION = "torchvision's official COCO_V1 weights"
_LICENSE = (
    "code BSD-3-Clause, weights not stated; the source leaves it to the user to see what the training data allows "
    "(COCO 2017: annotations CC BY 4.0, photographs under their Flickr terms)"
)
_FIRST = {"norm_eps": 0.0}
"""The first generation was trained with batch normalization that adds no epsilon to the variance."""
_FILES = "https://download.pytorch.org/models/"

_MMDETECTION = "MMDetection's official weights"
_MMDETECTION_LICENSE = (
    "code Apache-2.0, weights not stated; the source leaves it to the user to see what the training data allows "
    "(COCO 2017: annotations CC BY 4.0, photographs under their Flickr terms)"
)
_MMDETECTION_FILES = "https://download.openmmlab.com/mmdetection/v2.0/"
_MMDETECTION_V3 = "https://download.openmmlab.com/mmdetection/v3.0/"
EIGHTY = tuple(category for category in COCO_CATEGORIES if category.name != "N/A")
"""COCO's classes as MMDetection counts them, without gaps."""


def _solo(name: str, summary: str, file: str, size_mb: float, mask_ap: float, sides: tuple[int, int]) -> Entry:
    """One of MMDetection's SOLO family; file names carry the digest's first eight digits.

    Args:
        file: folder / date_time-digest.
        sides: short and long side that images are resized to, px.
    """
    folder, stamp = file.split("/")
    return Entry(
        name,
        summary,
        f"{_MMDETECTION_FILES}{'solov2' if folder.startswith('solov2') else 'solo'}/{folder}/{folder}_{stamp}.pth",
        sha256=stamp.split("-")[1],
        size_mb=size_mb,
        published={"mask AP": mask_ap},
        license=_MMDETECTION_LICENSE,
        source=_MMDETECTION,
        categories=EIGHTY,
        preprocess=Preprocess(short_side=sides[0], long_side=sides[1]),
        converter="from_mmdet.solo",
    )


_SOLO_FAMILY = (
    _solo(
        "solo_r50_fpn",
        "Everyday objects, masks without boxes: SOLO, ResNet-50 with FPN, 36 epochs",
        "solo_r50_fpn_3x_coco/20210901_012353-11d224d7",
        145.6,
        35.9,
        (800, 1333),
    ),
    _solo(
        "decoupled_solo_r50_fpn",
        "Everyday objects, masks without boxes: decoupled SOLO, ResNet-50 with FPN, 36 epochs",
        "decoupled_solo_r50_fpn_3x_coco/20210821_042504-7b3301ec",
        160.5,
        36.7,
        (800, 1333),
    ),
    _solo(
        "decoupled_solo_light_r50_fpn",
        "Everyday objects, masks without boxes, smaller images: decoupled SOLO light, ResNet-50 with FPN, 36 epochs",
        "decoupled_solo_light_r50_fpn_3x_coco/20210906_142703-e70e226f",
        129.8,
        32.9,
        (512, 852),
    ),
    _solo(
        "solov2_r50_fpn",
        "Everyday objects, masks without boxes: SOLOv2, ResNet-50 with FPN, 36 epochs",
        "solov2_r50_fpn_3x_coco/20220512_125856-fed092d4",
        186.7,
        37.5,
        (800, 1333),
    ),
    _solo(
        "solov2_r101_fpn",
        "Everyday objects, masks without boxes: SOLOv2, ResNet-101 with FPN, 36 epochs",
        "solov2_r101_fpn_3x_coco/20220511_095119-c559a076",
        263.0,
        39.1,
        (800, 1333),
    ),
    _solo(
        "solov2_r101_dcn_fpn",
        "Everyday objects, masks without boxes: SOLOv2, deformable ResNet-101 with FPN, 36 epochs",
        "solov2_r101_dcn_fpn_3x_coco/20220513_214734-16c966cb",
        275.6,
        41.2,
        (800, 1333),
    ),
    _solo(
        "solov2_light_r18_fpn",
        "Everyday objects, masks without boxes, fast: SOLOv2 light, ResNet-18 with FPN, 36 epochs",
        "solov2_light_r18_fpn_3x_coco/20220511_083717-75fa355b",
        73.2,
        29.7,
        (448, 768),
    ),
    _solo(
        "solov2_light_r34_fpn",
        "Everyday objects, masks without boxes, fast: SOLOv2 light, ResNet-34 with FPN, 36 epochs",
        "solov2_light_r34_fpn_3x_coco/20220511_091839-e51659d3",
        113.7,
        31.9,
        (448, 768),
    ),
    _solo(
        "solov2_light_r50_fpn",
        "Everyday objects, masks without boxes, fast: SOLOv2 light, ResNet-50 with FPN, 36 epochs",
        "solov2_light_r50_fpn_3x_coco/20220512_165256-c93a6074",
        125.7,
        33.7,
        (448, 768),
    ),
)


def _yolact(name: str, summary: str, file: str, size_mb: float, mask_ap: float) -> Entry:
    """One of MMDetection's YOLACT models, for images stretched to 550 x 550.

    Args:
        file: folder / date-digest.
    """
    folder, stamp = file.split("/")
    return Entry(
        name,
        summary,
        f"{_MMDETECTION_FILES}yolact/{folder}/{folder}_{stamp}.pth",
        sha256=stamp.split("-")[1],
        size_mb=size_mb,
        published={"mask AP": mask_ap},
        license=_MMDETECTION_LICENSE,
        source=_MMDETECTION,
        categories=EIGHTY,
        preprocess=Preprocess(
            mean=(123.68 / 255, 116.78 / 255, 103.94 / 255),
            std=(58.40 / 255, 57.12 / 255, 57.38 / 255),
            fixed_size=(550, 550),
            divisor=1,
        ),
        config={  # MMDETECTION of models.instance.yolact, which would need torch here
            "anchor_scales": ((24.0,), (48.0,), (96.0,), (192.0,), (384.0,)),
            "anchor_ratios": (0.5, 1.0, 2.0),
            "square_anchors": False,
            "head_relu": False,
            "coarse_from_backbone": True,
            "own_anchors": False,
            "learn_empty": True,
            "candidates_per_level": 1000,
            "clip_first": True,
            "semantic_off_by_one": True,
        },
        converter="from_mmdet.yolact",
    )


_YOLACT_FAMILY = (
    _yolact(
        "yolact_r50",
        "Everyday objects, masks, fast: YOLACT, ResNet-50 with FPN, 550 x 550 px",
        "yolact_r50_1x8_coco/20200908-f38d58df",
        141.4,
        29.0,
    ),
    _yolact(
        "yolact_r101",
        "Everyday objects, masks, fast: YOLACT, ResNet-101 with FPN, 550 x 550 px",
        "yolact_r101_1x8_coco/20200908-4cbe9101",
        217.6,
        30.4,
    ),
)


def _rtmdet(size: str, file: str, size_mb: float, box_ap: float, mask_ap: float) -> Entry:
    """RTMDet-Ins of one size; sizes of the files are those of their tensors.

    Args:
        file: folder/date_time-digest.
    """
    folder, stamp = file.split("/")
    return Entry(
        f"rtmdet_ins_{size}",
        f"Everyday objects, masks, fast: RTMDet-Ins {size}, CSPNeXt with PAFPN, 300 epochs",
        f"{_MMDETECTION_V3}rtmdet/{folder}/{folder}_{stamp}.pth",
        sha256=stamp.split("-")[1],
        size_mb=size_mb,
        published={"box AP": box_ap, "mask AP": mask_ap},
        license=_MMDETECTION_LICENSE,
        source=_MMDETECTION,
        categories=EIGHTY,
        preprocess=Preprocess(channels="bgr", short_side=640, long_side=640),
        converter="from_mmdet.rtmdet",
    )


_DYNAMIC_FAMILY = (
    Entry(
        "condinst_r50_fpn",
        "Everyday objects, masks: CondInst, ResNet-50 with FPN, 90,000 steps",
        _MMDETECTION_V3 + "condinst/condinst_r50_fpn_ms-poly-90k_coco_instance/"
        "condinst_r50_fpn_ms-poly-90k_coco_instance_20221129_125223-4c186406.pth",
        sha256="4c186406",
        size_mb=136.9,
        published={"box AP": 39.8, "mask AP": 36.0},
        license=_MMDETECTION_LICENSE,
        source=_MMDETECTION,
        categories=EIGHTY,
        converter="from_mmdet.condinst",
    ),
    _rtmdet("tiny", "rtmdet-ins_tiny_8xb32-300e_coco/20221130_151727-ec670f7e", 22.6, 40.5, 35.4),
    _rtmdet("s", "rtmdet-ins_s_8xb32-300e_coco/20221121_212604-fdc5d7ec", 40.8, 44.0, 38.7),
    _rtmdet("m", "rtmdet-ins_m_8xb32-300e_coco/20221123_001039-6eba602e", 110.5, 48.8, 42.1),
    _rtmdet("l", "rtmdet-ins_l_8xb32-300e_coco/20221124_103237-78d1d652", 229.8, 51.2, 43.7),
    _rtmdet("x", "rtmdet-ins_x_8xb16-300e_coco/20221124_111313-33d4595b", 411.3, 52.4, 44.6),
)

_CAFFE = Preprocess(
    mean=(123.675 / 255, 116.28 / 255, 103.53 / 255),
    std=(1 / 255, 1 / 255, 1 / 255),
    channels="bgr",
    short_side=800,
    long_side=1333,
)
"""Of backbones that were trained with Caffe."""


def _two_stage(
    name: str,
    summary: str,
    file: str,
    size_mb: float,
    published: Mapping[str, float],
    preprocess: Preprocess | None = None,
) -> Entry:
    """One of MMDetection's R-CNN family; file names carry the digest's first eight digits.

    Args:
        file: folder / subfolder / rest of the file's name, behind the subfolder's.
    """
    folder, run, rest = file.split("/")
    return Entry(
        name,
        summary,
        f"{_MMDETECTION_FILES}{folder}/{run}/{run}_{rest}.pth",
        sha256=rest.split("-")[-1],
        size_mb=size_mb,
        published=published,
        license=_MMDETECTION_LICENSE,
        source=_MMDETECTION,
        categories=EIGHTY,
        preprocess=preprocess or Preprocess(short_side=800, long_side=1333),
        converter="from_mmdet.two_stage",
    )


_TWO_STAGE_FAMILY = (
    _two_stage(
        "faster_rcnn_r50_fpn_mmdet",
        "Everyday objects, boxes only: Faster R-CNN, ResNet-50 with FPN, 36 epochs",
        "faster_rcnn/faster_rcnn_r50_fpn_mstrain_3x_coco/20210524_110822-e10bd31c",
        167.2,
        {"box AP": 40.3},
    ),
    _two_stage(
        "mask_rcnn_r50_fpn_mmdet",
        "Everyday objects, masks: Mask R-CNN, ResNet-50 with FPN, 36 epochs",
        "mask_rcnn/mask_rcnn_r50_fpn_mstrain-poly_3x_coco/20210524_201154-21b550bb",
        177.8,
        {"box AP": 40.9, "mask AP": 37.1},
    ),
    _two_stage(
        "mask_rcnn_r101_fpn",
        "Everyday objects, masks: Mask R-CNN, ResNet-101 with FPN, 36 epochs",
        "mask_rcnn/mask_rcnn_r101_fpn_mstrain-poly_3x_coco/20210524_200244-5675c317",
        254.0,
        {"box AP": 42.7, "mask AP": 38.5},
    ),
    _two_stage(
        "cascade_rcnn_r50_fpn",
        "Everyday objects, tight boxes only: Cascade R-CNN, ResNet-50 with FPN, 20 epochs",
        "cascade_rcnn/cascade_rcnn_r50_fpn_20e_coco/bbox_mAP-0.41_20200504_175131-e9872a90",
        277.8,
        {"box AP": 41.0},
    ),
    _two_stage(
        "cascade_mask_rcnn_r50_fpn_mmdet",
        "Everyday objects, tight boxes and masks: Cascade Mask R-CNN, ResNet-50 with FPN, 36 epochs",
        "cascade_rcnn/cascade_mask_rcnn_r50_fpn_mstrain_3x_coco/20210628_164719-5bdc3824",
        309.5,
        {"box AP": 44.3, "mask AP": 38.5},
    ),
    _two_stage(
        "cascade_mask_rcnn_r101_fpn",
        "Everyday objects, tight boxes and masks: Cascade Mask R-CNN, ResNet-101 with FPN, 36 epochs",
        "cascade_rcnn/cascade_mask_rcnn_r101_fpn_mstrain_3x_coco/20210628_165236-51a2d363",
        385.7,
        {"box AP": 45.5, "mask AP": 39.6},
    ),
    _two_stage(
        "mask_scoring_rcnn_r50_caffe_fpn",
        "Everyday objects, masks with scores of their own: Mask Scoring R-CNN, ResNet-50 with FPN, 24 epochs",
        "ms_rcnn/ms_rcnn_r50_caffe_fpn_2x_coco/bbox_mAP-0.388__segm_mAP-0.363_20200506_004738-ee87b137",
        243.2,
        {"box AP": 38.8, "mask AP": 36.3},
        _CAFFE,
    ),
    _two_stage(
        "mask_scoring_rcnn_r101_caffe_fpn",
        "Everyday objects, masks with scores of their own: Mask Scoring R-CNN, ResNet-101 with FPN, 24 epochs",
        "ms_rcnn/ms_rcnn_r101_caffe_fpn_2x_coco/bbox_mAP-0.411__segm_mAP-0.381_20200506_011134-5f3cc74f",
        319.4,
        {"box AP": 41.1, "mask AP": 38.1},
        _CAFFE,
    ),
)

_DETECTORS = (
    Entry(
        "fcos_r50_fpn",
        "Everyday objects, boxes only, one stage: FCOS with all its improvements, ResNet-50 with FPN, 12 epochs",
        _MMDETECTION_FILES
        + "fcos/fcos_center-normbbox-centeronreg-giou_r50_caffe_fpn_gn-head_1x_coco"
        + "/fcos_center-normbbox-centeronreg-giou_r50_caffe_fpn_gn-head_1x_coco-0a0d75a8.pth",
        sha256="0a0d75a8",
        size_mb=129.4,
        published={"box AP": 38.7},
        license=_MMDETECTION_LICENSE,
        source=_MMDETECTION,
        categories=EIGHTY,
        preprocess=_CAFFE,
        converter="from_mmdet.fcos",
    ),
    Entry(
        "retinanet_r50_fpn",
        "Everyday objects, boxes only, one stage: RetinaNet, ResNet-50 with FPN, 36 epochs",
        _MMDETECTION_FILES
        + "retinanet/retinanet_r50_fpn_mstrain_3x_coco"
        + "/retinanet_r50_fpn_mstrain_3x_coco_20210718_220633-88476508.pth",
        sha256="88476508",
        size_mb=152.1,
        published={"box AP": 39.5},
        license=_MMDETECTION_LICENSE,
        source=_MMDETECTION,
        categories=EIGHTY,
        converter="from_mmdet.retinanet",
    ),
    Entry(
        "retinanet_r50_fpn_torchvision",
        "Everyday objects, boxes only, one stage: RetinaNet of torchvision, ResNet-50 with FPN",
        _FILES + "retinanet_resnet50_fpn_coco-eeacb38b.pth",
        sha256="eeacb38b",
        size_mb=136.6,
        published={"box AP": 36.4},
        license=_LICENSE,
        source=_TORCHVISION,
        config=_FIRST,
        converter="from_torchvision_retinanet",
    ),
)

# torchvision puts the first eight digits of the file's SHA-256 into its name and publishes no longer digest.
CATALOGUE = (
    Entry(
        "mask_rcnn_r50_fpn",
        "Everyday objects, masks: Mask R-CNN as in the paper, ResNet-50 with FPN",
        _FILES + "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth",
        sha256="bf2d0c1e",
        size_mb=178.1,
        published={"box AP": 37.9, "mask AP": 34.6},
        license=_LICENSE,
        source=_TORCHVISION,
        config=_FIRST,
    ),
    Entry(
        "mask_rcnn_r50_fpn_v2",
        "Everyday objects, masks: Mask R-CNN with deeper heads and a longer training, ResNet-50 with FPN",
        _FILES + "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth",
        sha256="73cbd019",
        size_mb=185.8,
        published={"box AP": 47.4, "mask AP": 41.8},
        license=_LICENSE,
        source=_TORCHVISION,
    ),
    Entry(
        "faster_rcnn_r50_fpn",
        "Everyday objects, boxes only: Faster R-CNN, ResNet-50 with FPN",
        _FILES + "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
        sha256="258fb6c6",
        size_mb=167.5,
        published={"box AP": 37.0},
        license=_LICENSE,
        source=_TORCHVISION,
        config=_FIRST,
    ),
    Entry(
        "faster_rcnn_r50_fpn_v2",
        "Everyday objects, boxes only: Faster R-CNN with deeper heads and a longer training, ResNet-50 with FPN",
        _FILES + "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth",
        sha256="dd69338a",
        size_mb=175.2,
        published={"box AP": 46.7},
        license=_LICENSE,
        source=_TORCHVISION,
    ),
    Entry(
        "keypoint_rcnn_r50_fpn",
        "People, boxes and 17 body keypoints: Keypoint R-CNN, ResNet-50 with FPN",
        _FILES + "keypointrcnn_resnet50_fpn_coco-fc266e95.pth",
        sha256="fc266e95",
        size_mb=237.0,
        published={"box AP": 54.6, "keypoint AP": 65.0},
        license=_LICENSE,
        source=_TORCHVISION,
        categories=PERSON,
        config=_FIRST,
    ),
    *_SOLO_FAMILY,
    *_DYNAMIC_FAMILY,
    *_YOLACT_FAMILY,
    *_TWO_STAGE_FAMILY,
    *_DETECTORS,
    Entry(
        "pointrend_r50_fpn_mmdet",
        "Everyday objects, masks with fine boundaries: PointRend, ResNet-50 with FPN, 36 epochs",
        _MMDETECTION_FILES
        + "point_rend/point_rend_r50_caffe_fpn_mstrain_3x_coco/point_rend_r50_caffe_fpn_mstrain_3x_coco-e0ebb6b7.pth",
        sha256="e0ebb6b7",
        size_mb=241.1,
        published={"box AP": 41.0, "mask AP": 38.0},
        license=_MMDETECTION_LICENSE,
        source=_MMDETECTION,
        categories=EIGHTY,
        preprocess=Preprocess(
            mean=(123.675 / 255, 116.28 / 255, 103.53 / 255),
            std=(1 / 255, 1 / 255, 1 / 255),
            channels="bgr",
            short_side=800,
            long_side=1333,
        ),
        converter="from_mmdet.point_rend",
    ),
)
"""Everything that is fetched on first use."""


def bundled() -> dict[str, Path]:
    """Name -> file of the models that work without a network, in alphabetical order."""
    return {path.stem: path for path in sorted(BUNDLED.glob("*.safetensors"))}


def find(name: str) -> Entry:
    """The catalogue's entry of that name.

    Raises:
        UserError: there is none; the message has the nearest names.
    """
    for entry in CATALOGUE:
        if entry.name == name:
            return entry
    known = [*bundled(), *(entry.name for entry in CATALOGUE)]
    near = difflib.get_close_matches(name, known, n=3) or known
    raise UserError(
        f"there are no weights by the name {name!r}; did you mean {' or '.join(near)}? A model file of one's own is "
        "given by its path, ending in .safetensors"
    )
