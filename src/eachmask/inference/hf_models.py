"""Segmentation models of transformers behind a Predictor: ``load("hf:OWNER/NAME")``.

Any network that transformers' auto classes know for semantic segmentation (SegFormer, UPerNet, BEiT, DPT, ...), for
universal segmentation, that is by queries with a class and a mask each (MaskFormer, Mask2Former, OneFormer, EoMT,
DETR), or for instances (RF-DETR); SAM 3, which finds what words mean; and ViTMatte, which fills in trimaps (Yao, Wang,
Yang, Wang, Information Fusion 2024, arXiv 2305.15272). What they say is read here as of our own networks, so that
tiles, files, drawing and measures are the same; their processors only tell sizes, how images get them, mean, deviation
and the order of channels. Their weights are learnt with transformers, not here.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.inference.hub import import_transformers
from eachmask.inference.predictor import Predictor
from eachmask.models.matting.trimap_network import TrimapNetwork
from eachmask.models.panoptic.queries import (
    InstanceAnswers,
    PanopticAnswers,
    QueryConfig,
    QueryNetwork,
    Raw,
    Selected,
    SemanticAnswers,
    selected_of,
)
from eachmask.models.semantic import labeling
from eachmask.structures import Category, DecodeOptions, ImageBatch, Preprocess, UserError
from eachmask.structures.spatial import Spatial
from eachmask.weights.header import ModelInfo

PREFIX = "hf:"
STRIDE = 32
"""Sides of what these networks see are multiples of it, px."""
MISSING = "models of transformers need the package: pip install 'eachmask[transformers]'"
LICENSE = "that of the model's page on huggingface.co, which says who may use it for what"
FOREGROUND = (Category(1, "foreground"),)
THINGS = {133: tuple(range(80)), 250: tuple(range(91)), 19: tuple(range(11, 19))}
"""Labels of things by the number of classes, COCO's (DETR's are COCO's own ids) and Cityscapes'; transformers' models
do not say it themselves."""

BICUBIC = 3
"""PIL's number of it, which processors give."""

MAX_TOKENS = 32
"""Of a word that SAM 3 is asked for."""


class SemanticModel(labeling.Labeling):
    """A network of transformers that labels pixels.

    Args:
        net: gives ``logits`` (B, K, h, w).
    """

    def __init__(self, net: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.net, self.num_classes = net, num_classes

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> labeling.Raw:
        """(B, 3, H, W) -> (B, K, h, w)."""
        height, width = images.tensor.shape[-2:]
        return labeling.Raw(self.net(pixel_values=images.tensor).logits, None, (height, width), images.sizes)


class QueryModel(QueryNetwork):
    """A network of transformers that says classes and masks of queries.

    Args:
        net: gives ``class_queries_logits`` (B, Q, K + 1) and ``masks_queries_logits`` (B, Q, h, w), or ``logits`` and
            ``pred_masks``.
        tokens: (1, T) what OneFormer is told of its task; None for all others.
    """

    def __init__(self, net: nn.Module, num_classes: int, config: QueryConfig, tokens: Tensor | None = None) -> None:
        super().__init__()
        self.net, self.num_classes, self.config = net, num_classes, config
        self.register_buffer("tokens", tokens, persistent=False)
        self.leaves_out_padding = "pixel_mask" in inspect.signature(net.forward).parameters

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> classes and masks."""
        more = {} if self.tokens is None else {"task_inputs": self.tokens.expand(len(images.sizes), -1)}  # type: ignore[operator]
        if self.leaves_out_padding:
            more["pixel_mask"] = pixels_of(images)
        said = self.net(pixel_values=images.tensor, **more)
        classes = said.class_queries_logits if "class_queries_logits" in said else said.logits
        masks = said.masks_queries_logits if "masks_queries_logits" in said else said.pred_masks
        height, width = images.tensor.shape[-2:]
        return Raw(classes, masks, (), (height, width), images.sizes)


def pixels_of(images: ImageBatch) -> Tensor:
    """(B, H, W) int64: 1 on the images, 0 where they are padded.

    >>> pixels_of(ImageBatch(torch.zeros(2, 3, 2, 3), ((2, 1), (1, 3)))).tolist()
    [[[1, 0, 0], [1, 0, 0]], [[1, 1, 1], [0, 0, 0]]]
    """
    (height, width), device = images.tensor.shape[-2:], images.tensor.device
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    sizes = torch.tensor(images.sizes, device=device)[:, :, None, None]
    return ((rows[:, None] < sizes[:, 0]) & (columns < sizes[:, 1])).long()


class MatteModel(TrimapNetwork):
    """ViTMatte: opacities from an image and its trimap.

    Args:
        net: takes (B, 4, H, W), the image and a trimap of 0, 0.5 and 1, and gives ``alphas`` (B, 1, H, W).
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.num_classes = net, 1

    def opacities(self, images: ImageBatch, known: Tensor) -> Tensor:
        """What the network says; it sees sides that are multiples of :data:`STRIDE`."""
        height, width = images.tensor.shape[-2:]
        seen = torch.cat([images.tensor, known[:, :1] + known[:, 1:2] / 2], 1)
        said: Tensor = self.net(pixel_values=F.pad(seen, (0, -width % STRIDE, 0, -height % STRIDE))).alphas
        return said[..., :height, :width].to(known)


class PanopticModel(QueryModel, PanopticAnswers):
    """Panoptic maps."""


class InstanceModel(QueryModel, InstanceAnswers):
    """Instances."""


class SemanticQueryModel(QueryModel, SemanticAnswers):
    """Semantic maps."""


class IndependentModel(QueryModel, InstanceAnswers):
    """Instances of queries that say yes or no to each class for itself (RF-DETR): scores are sigmoids."""

    def select(self, raw: Raw, options: DecodeOptions) -> Selected:
        """The best pairs of query and class."""
        c = self.config
        least = c.score_threshold if options.score_threshold is None else options.score_threshold
        most = c.max_detections if options.max_detections is None else options.max_detections
        kept = []
        for logits, masks in zip(raw.classes.float().sigmoid(), raw.masks, strict=True):
            scores, places = logits.flatten().topk(min(most, logits.numel()))
            kept_ones = (scores >= least) & (scores > 0)
            scores, places = scores[kept_ones], places[kept_ones]
            kept.append((masks[places // self.num_classes], scores, places % self.num_classes))
        return selected_of(raw, kept)


class WordsModel(IndependentModel):
    """Instances of what words mean (SAM 3): each word is asked for, and its queries say where it is and how surely.

    Args:
        tokens: (K, T) ids of the words, and (K, T) which of them are there.
    """

    def __init__(self, net: nn.Module, config: QueryConfig, tokens: Tensor, present: Tensor) -> None:
        super().__init__(net, len(tokens), config, tokens)
        self.register_buffer("present", present, persistent=False)

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """(B, 3, H, W) -> (B, K Q, K) logits, of each query for its own word alone, and masks (B, K Q, h, w)."""
        seen = self.net.get_vision_features(images.tensor)  # type: ignore[operator]
        count, classes, masks = len(images.sizes), [], []
        for word in range(self.num_classes):
            ids, present = (part[word].expand(count, -1) for part in (self.tokens, self.present))  # type: ignore[index]
            said = self.net(vision_embeds=seen, input_ids=ids, attention_mask=present)
            sure = said.pred_logits.float().sigmoid() * said.presence_logits.float().sigmoid()
            logits = sure.new_full((*sure.shape, self.num_classes), -torch.inf)
            logits[..., word] = sure.logit(1e-6)
            classes.append(logits)
            masks.append(said.pred_masks)
        height, width = images.tensor.shape[-2:]
        return Raw(torch.cat(classes, 1), torch.cat(masks, 1), (), (height, width), images.sizes)


ANSWERS = {"panoptic": PanopticModel, "instance": InstanceModel, "semantic": SemanticQueryModel}


def load_hf(name: str, *, device: str = "auto", precision: str = "auto", side: int | None = None) -> Predictor[Any]:
    """A model of the hub, or of a folder that ``save_pretrained`` wrote.

    Args:
        name: ``hf:OWNER/NAME`` or ``hf:FOLDER``; with ``#panoptic``, ``#instance`` or ``#semantic`` behind it where a
            network by queries shall answer otherwise than its name says (panoptic, if it says nothing); of a SAM 3 with
            the words that it shall find, ``#cat,traffic light``.
        device, precision, side: as of :func:`eachmask.load`.

    Raises:
        UserError: transformers is not installed, there is no such model within reach, or it does not segment.
    """
    found = import_transformers(MISSING)
    place, _, asked = name.removeprefix(PREFIX).partition("#")
    try:
        config = found.AutoConfig.from_pretrained(place)
        model, categories = _model(found, config, place, asked)
        preprocess = preprocess_of(found.AutoImageProcessor.from_pretrained(place))
    except UserError:
        raise
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{name} cannot be loaded with transformers: {str(error).splitlines()[0]}") from error
    preprocess = preprocess if side is None else preprocess.at_long_side(side)
    info = ModelInfo("hf", {}, preprocess, categories, LICENSE, name=f"{PREFIX}{place}")
    return Predictor(model, info, device=device, precision=precision, optimize=False)


def _model(found: Any, config: Any, place: str, asked: str) -> tuple[nn.Module, tuple[Category, ...]]:
    """The network of a configuration, as one of ours, and its categories."""
    if config.model_type == "vitmatte":
        return MatteModel(found.VitMatteForImageMatting.from_pretrained(place)), FOREGROUND
    if config.model_type in ("sam3", "sam3_video"):
        return _finding(found, place, [word.strip() for word in asked.split(",") if word.strip()])
    if asked and asked not in ANSWERS:
        raise UserError(f"{PREFIX}{place}#{asked} must end in #{', #'.join(ANSWERS)} or in nothing")
    net, speaks = _network(found, config, place)
    kind = asked or next((kind for kind in ANSWERS if kind in place.lower()), "panoptic")
    tokens = _task_tokens(found, place, kind) if config.model_type == "oneformer" else None
    return wrapped(net, config.id2label, kind if speaks == "queries" else speaks, tokens)


def wrapped(
    net: nn.Module, names: dict[int, str], kind: str, tokens: Tensor | None = None
) -> tuple[nn.Module, tuple[Category, ...]]:
    """A network of transformers as one of ours, and its categories.

    Args:
        names: label -> name.
        kind: of :data:`ANSWERS`; "pixels" is a network that labels pixels, "independent" one whose queries say yes or
            no to each class.
        tokens: as of :class:`QueryModel`.
    """
    count = len(names)
    things = THINGS.get(count, range(count))
    categories = tuple(Category(i + 1, names[i], is_thing=i in things) for i in range(count))
    if kind == "pixels":
        return SemanticModel(net, count), categories
    if kind == "independent":
        return IndependentModel(net, count, QueryConfig(int(net.config.num_queries))), categories  # type: ignore[union-attr,arg-type]
    stuff = tuple(label for label in range(count) if label not in things)
    queries = int(getattr(net.config, "num_queries", 100))
    return ANSWERS[kind](net, count, QueryConfig(queries, stuff), tokens), categories


def preprocess_of(processor: Any) -> Preprocess:
    """What an image processor of transformers does to an image, in our words."""
    size = dict(getattr(processor, "size", None) or {})
    fixed = (int(size["height"]), int(size["width"])) if "height" in size and "width" in size else None
    short = size.get("shortest_edge") if fixed is None else None
    long = size.get("longest_edge") if fixed is None else None
    normalizes = getattr(processor, "do_normalize", True)
    mean = tuple(processor.image_mean) if normalizes else (0.0, 0.0, 0.0)
    std = tuple(processor.image_std) if normalizes else (1.0, 1.0, 1.0)
    channels: Any = "bgr" if getattr(processor, "do_flip_channel_order", False) else "rgb"
    how = _resampling(processor)
    return Preprocess(mean, std, channels, short, long, fixed_size=fixed, divisor=STRIDE, resampling=how)


def _resampling(processor: Any) -> Literal["bilinear", "pil", "pil-bicubic"]:
    """How a processor resizes images: all smooth what becomes smaller, as PIL does, except RF-DETR's."""
    if type(processor).__name__.startswith("RfDetr"):
        return "bilinear"
    return "pil-bicubic" if getattr(processor, "resample", None) == BICUBIC else "pil"


def _finding(found: Any, place: str, words: list[str]) -> tuple[nn.Module, tuple[Category, ...]]:
    """A network that finds what words mean, and the words as categories.

    Raises:
        UserError: there are none.
    """
    if not words:
        raise UserError(f"{PREFIX}{place} finds what words mean: give them behind a #, as in {PREFIX}{place}#cat,dog")
    net, read = found.Sam3Model.from_pretrained(place), found.AutoTokenizer.from_pretrained(place)
    said = read(words, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
    queries = QueryConfig(int(net.config.detr_decoder_config.num_queries) * len(words))
    model = WordsModel(net, queries, said["input_ids"], said["attention_mask"])
    return model, tuple(Category(i, word) for i, word in enumerate(words, start=1))


def _network(found: Any, config: Any, place: str) -> tuple[nn.Module, str]:
    """The network, and how it speaks: pixels, queries, independent."""
    auto = found.models.auto.modeling_auto
    named = getattr(config, "architectures", None) or [""]
    for mapping, loader, speaks in (
        (auto.MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING_NAMES, "AutoModelForUniversalSegmentation", "queries"),
        (auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES, "AutoModelForSemanticSegmentation", "pixels"),
        (auto.MODEL_FOR_INSTANCE_SEGMENTATION_MAPPING_NAMES, "AutoModelForInstanceSegmentation", "independent"),
    ):
        if config.model_type in mapping and not re.search("Classification|ObjectDetection", named[0]):
            return getattr(found, loader).from_pretrained(place), speaks
    raise ValueError(f"a {config.model_type} ({named[0]}) is no segmentation model that is known here")


def _task_tokens(found: Any, place: str, kind: str) -> Tensor:
    """What OneFormer is told."""
    tokenizer = found.AutoTokenizer.from_pretrained(place)
    ids = tokenizer(f"the task is {kind}", padding="max_length", max_length=77, truncation=True)["input_ids"]
    return torch.tensor([ids])
