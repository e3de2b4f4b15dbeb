"""Models: one paper, one file. The name of a model is the name of its variant function, wherever it is used.

``eachmask.models.mask_rcnn_r50_fpn(num_classes=3)`` builds an untrained network; the file it lives in is imported
only then.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_type_hints

from eachmask.structures.errors import UserError, nearest
from eachmask.structures.lazy import lazy_room

_module, _modules = lazy_room(__name__, __path__)

if TYPE_CHECKING:
    from eachmask.models.protocol import Network

VARIANTS = {
    "actor_critic_lite0": "sequential.actor_critic",
    "recurrent_instance_lite0": "sequential.recurrent_instance",
    "recurrent_attention_lite0": "sequential.recurrent_attention",
    "sds_r50": "instance.sds",
    "sds_lite0": "instance.sds",
    "cfm_r50_fpn": "instance.cfm",
    "cfm_lite0": "instance.cfm",
    "hypercolumns_r50_fpn": "instance.hypercolumns",
    "hypercolumns_lite0": "instance.hypercolumns",
    "mnc_r50_fpn": "instance.mnc",
    "mnc_lite0": "instance.mnc",
    "fcis_r50_fpn": "instance.fcis",
    "fcis_lite0": "instance.fcis",
    "rcnn_r50": "detection.rcnn",
    "rcnn_r18": "detection.rcnn",
    "rcnn_lite0": "detection.rcnn",
    "fast_rcnn_r50_fpn": "detection.fast_rcnn",
    "fast_rcnn_r18_fpn": "detection.fast_rcnn",
    "fast_rcnn_lite0": "detection.fast_rcnn",
    "faster_rcnn_r50_fpn": "detection.faster_rcnn",
    "faster_rcnn_r50_fpn_v2": "detection.faster_rcnn",
    "faster_rcnn_lite0_fpn": "detection.faster_rcnn",
    "fcos_r50_fpn": "detection.fcos",
    "fcos_lite0_fpn": "detection.fcos",
    "keypoint_rcnn_r50_fpn": "instance.keypoint_rcnn",
    "keypoint_rcnn_lite0_fpn": "instance.keypoint_rcnn",
    "keypoint_rcnn_lite0_p3": "instance.keypoint_rcnn",
    "mask_rcnn_r50_fpn": "instance.mask_rcnn",
    "mask_rcnn_r50_fpn_v2": "instance.mask_rcnn",
    "mask_rcnn_r50_fpn_mmdet": "instance.mask_rcnn",
    "mask_rcnn_r50_fpn_detectron2": "instance.mask_rcnn",
    "mask_rcnn_r18_fpn": "instance.mask_rcnn",
    "mask_rcnn_lite0_fpn": "instance.mask_rcnn",
    "mask_rcnn_lite0_p3": "instance.mask_rcnn",
    "mask_rcnn_swin_t_fpn": "instance.mask_rcnn",
    "faster_rcnn_r50_fpn_mmdet": "detection.faster_rcnn",
    "faster_rcnn_timm_fpn": "detection.faster_rcnn",
    "mask_rcnn_r34_fpn": "instance.mask_rcnn",
    "mask_rcnn_r101_fpn": "instance.mask_rcnn",
    "mask_rcnn_x101_fpn": "instance.mask_rcnn",
    "mask_rcnn_swin_s_fpn": "instance.mask_rcnn",
    "mask_rcnn_swin_b_fpn": "instance.mask_rcnn",
    "mask_rcnn_swin_v2_t_fpn": "instance.mask_rcnn",
    "mask_rcnn_swin_v2_s_fpn": "instance.mask_rcnn",
    "mask_rcnn_swin_v2_b_fpn": "instance.mask_rcnn",
    "mask_rcnn_swin_t_fpn_mmdet": "instance.mask_rcnn",
    "mask_rcnn_swin_s_fpn_mmdet": "instance.mask_rcnn",
    "mask_rcnn_timm_fpn": "instance.mask_rcnn",
    "cascade_mask_rcnn_swin_t_fpn": "instance.cascade_mask_rcnn",
    "cascade_mask_rcnn_swin_s_fpn": "instance.cascade_mask_rcnn",
    "cascade_mask_rcnn_swin_b_fpn": "instance.cascade_mask_rcnn",
    "cascade_mask_rcnn_swin_v2_t_fpn": "instance.cascade_mask_rcnn",
    "cascade_mask_rcnn_r101_fpn": "instance.cascade_mask_rcnn",
    "mask_scoring_rcnn_r50_caffe_fpn": "instance.mask_scoring",
    "mask_scoring_rcnn_r101_caffe_fpn": "instance.mask_scoring",
    "mask_rcnn_lite0_pafpn": "instance.mask_rcnn",
    "mask_rcnn_r50_pafpn": "instance.mask_rcnn",
    "faster_rcnn_r50_c4": "detection.faster_rcnn_c4",
    "faster_rcnn_r18_c4": "detection.faster_rcnn_c4",
    "panet_r50_fpn": "instance.panet",
    "panet_lite0_fpn": "instance.panet",
    "mask_scoring_rcnn_r50_fpn": "instance.mask_scoring",
    "mask_scoring_rcnn_lite0_fpn": "instance.mask_scoring",
    "cascade_rcnn_r50_fpn": "detection.cascade_rcnn",
    "cascade_rcnn_lite0_fpn": "detection.cascade_rcnn",
    "cascade_mask_rcnn_r50_fpn_mmdet": "instance.cascade_mask_rcnn",
    "cascade_mask_rcnn_r50_fpn_detectron2": "instance.cascade_mask_rcnn",
    "cascade_mask_rcnn_lite0_fpn": "instance.cascade_mask_rcnn",
    "cascade_mask_rcnn_lite0_p3": "instance.cascade_mask_rcnn",
    "mask2former_r50": "panoptic.mask2former",
    "mask2former_r50_instance": "panoptic.mask2former",
    "mask2former_r50_semantic": "panoptic.mask2former",
    "mask2former_swin_t": "panoptic.mask2former",
    "mask2former_swin_s": "panoptic.mask2former",
    "mask2former_swin_b": "panoptic.mask2former",
    "mask2former_swin_l": "panoptic.mask2former",
    "mask2former_swin_t_instance": "panoptic.mask2former",
    "mask2former_swin_t_semantic": "panoptic.mask2former",
    "mask2former_lite0": "panoptic.mask2former",
    "mask2former_lite0_instance": "panoptic.mask2former",
    "mask2former_lite0_semantic": "panoptic.mask2former",
    "maskformer_panoptic_r50": "panoptic.maskformer",
    "maskformer_semantic_r50": "panoptic.maskformer",
    "maskformer_panoptic_swin_t": "panoptic.maskformer",
    "maskformer_semantic_swin_t": "panoptic.maskformer",
    "maskformer_panoptic_lite0": "panoptic.maskformer",
    "maskformer_semantic_lite0": "panoptic.maskformer",
    "panoptic_deeplab_r52": "panoptic.panoptic_deeplab",
    "panoptic_deeplab_r52_dsconv": "panoptic.panoptic_deeplab",
    "panoptic_deeplab_mobilenet_v3_large": "panoptic.panoptic_deeplab",
    "panoptic_fpn_r50": "panoptic.panoptic_fpn",
    "panoptic_fpn_r101": "panoptic.panoptic_fpn",
    "panoptic_fpn_swin_t": "panoptic.panoptic_fpn",
    "panoptic_fpn_lite0": "panoptic.panoptic_fpn",
    "semantic_fpn_r50": "semantic.semantic_fpn",
    "semantic_fpn_r50_mmseg": "semantic.semantic_fpn",
    "semantic_fpn_swin_t": "semantic.semantic_fpn",
    "semantic_fpn_lite0": "semantic.semantic_fpn",
    "deeplabv3plus_r52": "semantic.deeplabv3plus",
    "deeplabv3plus_r103": "semantic.deeplabv3plus",
    "deeplabv3plus_r50_d8": "semantic.deeplabv3plus",
    "deeplabv3plus_lite0": "semantic.deeplabv3plus",
    "segformer_b0": "semantic.segformer",
    "segformer_b1": "semantic.segformer",
    "segformer_b2": "semantic.segformer",
    "segformer_b5": "semantic.segformer",
    "pointrend_semantic_r50": "semantic.pointrend_semantic",
    "pointrend_semantic_r50_mmseg": "semantic.pointrend_semantic",
    "pointrend_semantic_r101": "semantic.pointrend_semantic",
    "pointrend_semantic_lite0": "semantic.pointrend_semantic",
    "pspnet_r50_d8": "semantic.pspnet",
    "pspnet_r50_d8_align": "semantic.pspnet",
    "pspnet_r101_d8": "semantic.pspnet",
    "pspnet_lite0": "semantic.pspnet",
    "upernet_swin_t": "semantic.upernet",
    "upernet_swin_s": "semantic.upernet",
    "upernet_swin_b": "semantic.upernet",
    "upernet_r50": "semantic.upernet",
    "upernet_lite0": "semantic.upernet",
    "panoptic_deeplab_lite0": "instance.panoptic_deeplab",
    "panoptic_deeplab_lite2": "instance.panoptic_deeplab",
    "solo_r50_fpn": "instance.solo",
    "decoupled_solo_r50_fpn": "instance.solo",
    "decoupled_solo_light_r50_fpn": "instance.solo",
    "solo_lite0": "instance.solo",
    "solov2_r50_fpn": "instance.solov2",
    "solov2_r101_fpn": "instance.solov2",
    "solov2_r101_dcn_fpn": "instance.solov2",
    "solov2_light_r18_fpn": "instance.solov2",
    "solov2_light_r34_fpn": "instance.solov2",
    "solov2_light_r50_fpn": "instance.solov2",
    "solov2_lite0": "instance.solov2",
    "decoupled_solo_lite0": "instance.solo",
    "yolact_r50": "instance.yolact",
    "yolact_r101": "instance.yolact",
    "yolact_lite0": "instance.yolact",
    "simpleclick_vit_b": "promptable.simpleclick",
    "simpleclick_vit_l": "promptable.simpleclick",
    "simpleclick_vit_h": "promptable.simpleclick",
    "simpleclick_vit_t": "promptable.simpleclick",
    "ritm_hrnet18": "promptable.ritm",
    "ritm_hrnet18s": "promptable.ritm",
    "ritm_hrnet32": "promptable.ritm",
    "ritm_lite0": "promptable.ritm",
    "latent_diversity_lite0": "promptable.latent_diversity",
    "polygon_rnn_lite0": "promptable.polygon_rnn",
    "dextr_r101": "promptable.dextr",
    "dextr_r18": "promptable.dextr",
    "dextr_lite0": "promptable.dextr",
    "clicks_lite0": "promptable.clicks",
    "sam_vit_b": "promptable.sam",
    "sam_vit_l": "promptable.sam",
    "sam_vit_h": "promptable.sam",
    "mobile_sam": "promptable.mobile_sam",
    "efficient_sam_ti": "promptable.efficient_sam",
    "efficient_sam_s": "promptable.efficient_sam",
    "sam2_hiera_t": "promptable.sam2",
    "sam2_hiera_s": "promptable.sam2",
    "sam2_hiera_b_plus": "promptable.sam2",
    "sam2_hiera_l": "promptable.sam2",
    "fastsam_r50": "promptable.fastsam",
    "fastsam_lite0": "promptable.fastsam",
    "yolact_plus_r50": "instance.yolact_plus",
    "yolact_plus_r101": "instance.yolact_plus",
    "yolact_plus_r18": "instance.yolact_plus",
    "boundaryformer_r50_fpn": "instance.boundaryformer",
    "boundaryformer_lite0_fpn": "instance.boundaryformer",
    "pointrend_r50_fpn": "instance.pointrend",
    "pointrend_r50_fpn_mmdet": "instance.pointrend",
    "pointrend_lite0_fpn": "instance.pointrend",
    "implicit_pointrend_r50_fpn": "instance.implicit_pointrend",
    "implicit_pointrend_lite0_fpn": "instance.implicit_pointrend",
    "polarmask_r50_fpn": "instance.polarmask",
    "polarmask_lite0_fpn": "instance.polarmask",
    "retinanet_r50_fpn": "detection.retinanet",
    "retinanet_r50_fpn_torchvision": "detection.retinanet",
    "retinanet_lite0_fpn": "detection.retinanet",
    "rtmdet_ins_nano": "instance.rtmdet_ins",
    "rtmdet_ins_tiny": "instance.rtmdet_ins",
    "rtmdet_ins_s": "instance.rtmdet_ins",
    "rtmdet_ins_m": "instance.rtmdet_ins",
    "rtmdet_ins_l": "instance.rtmdet_ins",
    "rtmdet_ins_x": "instance.rtmdet_ins",
    "condinst_r50_fpn": "instance.condinst",
    "condinst_r50_fpn_adelaidet": "instance.condinst",
    "condinst_lite0_fpn": "instance.condinst",
    "condinst_lite2_fpn": "instance.condinst",
    "blendmask_r50_fpn": "instance.blendmask",
    "blendmask_lite0_fpn": "instance.blendmask",
    "tensormask_r50_fpn": "instance.tensormask",
    "tensormask_lite0_fpn": "instance.tensormask",
    "centermask_r50_fpn": "instance.centermask",
    "centermask_v39_fpn": "instance.centermask",
    "centermask_lite_v39_fpn": "instance.centermask",
    "centermask_lite0_fpn": "instance.centermask",
    "yolo_v1_r18": "detection.yolo",
    "yolo_v1_lite0": "detection.yolo",
    "discriminative_lite0": "proposal_free.discriminative",
    "discriminative_greedy_lite0": "proposal_free.discriminative",
    "deep_watershed_lite0": "proposal_free.deep_watershed",
    "instance_cut_lite0": "proposal_free.instance_cut",
    "pfn_lite0": "proposal_free.pfn",
    "pfn_kmeans_lite0": "proposal_free.pfn",
    "coverage_tree_lite0": "proposal_free.coverage_tree",
    "stardist_lite0": "proposal_free.stardist",
    "flows_lite0": "proposal_free.flows",
    "flows_cpnet": "proposal_free.flows",
    "cellpose_cyto3": "proposal_free.flows",
    "spatial_embedding_lite0": "proposal_free.spatial_embedding",
    "spatial_embedding_erfnet": "proposal_free.spatial_embedding",
    "fcn32s_vgg16": "semantic.fcn",
    "fcn16s_vgg16": "semantic.fcn",
    "fcn8s_vgg16": "semantic.fcn",
    "fcn32s_lite0": "semantic.fcn",
    "fcn16s_lite0": "semantic.fcn",
    "fcn8s_lite0": "semantic.fcn",
    "fcn_resnet50": "semantic.fcn",
    "fcn_resnet101": "semantic.fcn",
    "deeplabv3_resnet50": "semantic.deeplabv3",
    "deeplabv3_resnet101": "semantic.deeplabv3",
    "deeplabv3_mobilenet_v3_large": "semantic.deeplabv3",
    "deeplabv3_lite0": "semantic.deeplabv3",
    "lraspp_mobilenet_v3_large": "semantic.lraspp",
    "lraspp_lite0": "semantic.lraspp",
    "background_matting": "matting.background_matting",
    "background_matting_small": "matting.background_matting",
    "background_matting_v2_mobilenetv2": "matting.background_matting_v2",
    "background_matting_v2_resnet50": "matting.background_matting_v2",
    "robust_video_matting_mobilenetv3": "matting.robust_video_matting",
    "robust_video_matting_resnet50": "matting.robust_video_matting",
    "modnet": "matting.modnet",
    "dcnn_matting": "matting.dcnn_matting",
    "automatic_matting_lite0": "matting.automatic_matting",
    "deep_matting_lite0": "matting.deep_matting",
    "stm_lite0": "video.stm",
    "segnet_vgg16": "semantic.segnet",
    "segnet_tiny": "semantic.segnet",
    "deconvnet_vgg16": "semantic.segnet",
    "deconvnet_tiny": "semantic.segnet",
    "dilated_context_lite0": "semantic.dilated_context",
    "dilated_context_resnet50": "semantic.dilated_context",
    "sliding_window": "semantic.sliding_window",
    "unet": "semantic.unet",
    "unet_tiny": "semantic.unet",
    "unet_s5_d16": "semantic.unet",
    "unet_lite0": "semantic.unet",
}
"""Variant function -> the module below ``eachmask.models`` that defines it."""


def variant(name: str) -> Callable[..., Any]:
    """The variant function of that name; see :mod:`eachmask.models.on_backbone` for its setting ``backbone``.

    Raises:
        UserError: there is none; the message has the nearest names.
    """
    if name not in VARIANTS:
        raise UserError(f"there is no model {name!r}; did you mean {nearest(name, VARIANTS)}?")
    module = importlib.import_module(f"{__name__}.{VARIANTS[name]}")
    exchanging = _module("on_backbone").on_any_backbone
    function: Callable[..., Any] = exchanging(getattr(module, name), getattr(module, "Config", None))
    return function


def model_class(name: str) -> type[Network[Any, Any, Any]]:
    """The class of the variant's networks: its ``task``, ``max_classes`` and ``needs`` say what they are for.

    >>> model_class("fastsam_lite0").max_classes
    1

    Raises:
        UserError: there is no such variant, see :func:`variant`.
    """
    made = variant(name)
    result: type[Network[Any, Any, Any]] = made if isinstance(made, type) else get_type_hints(made)["return"]
    return result


def __getattr__(name: str) -> Any:
    if name in VARIANTS:
        return variant(name)
    return _module(name)


def __dir__() -> list[str]:
    return sorted([*VARIANTS, "VARIANTS", "model_class", "variant", *_modules()])
