"""SAM: Segment Anything.

Kirillov, Mintun, Ravi, Mao, Rolland, Gustafson, Xiao, Whitehead, Berg, Lo, Dollár, Girshick: "Segment Anything", 2023,
arXiv 2304.02643.

The idea: a large encoder looks at the image once; a small decoder then answers any prompt in milliseconds. Since a
prompt may mean several things, it gives several masks (whole, part, subpart) and says of each how good it thinks it is;
in training only the best of them is blamed.

Points and boxes count as in the authors' code: c becomes c * scale + 1/2 in the network's frame.

Shapes: B images, P objects in all of them, M masks of an object (4), h x w cells of the feature grid, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from eachmask.backbones.window_vit import ViTConfig, WindowViT
from eachmask.models.config import changed
from eachmask.models.promptable.mask_decoder import Decoded, DecoderConfig, MaskDecoder, TwoWayBlock
from eachmask.models.promptable.mask_losses import LossConfig, mask_losses
from eachmask.models.promptable.prompt_encoder import NOTHING, ON, ChannelNorm, PromptConfig, PromptEncoder
from eachmask.models.promptable.prompt_tokens import Frame, Said, said
from eachmask.models.protocol import Network, PointAnswers
from eachmask.ops.automatic_masks import point_grid
from eachmask.ops.suppression import suppress_boxes
from eachmask.structures import DecodeOptions, ImageBatch, Instances, Preprocess, Prompts
from eachmask.structures.decode import Limits
from eachmask.structures.logit_masks import LogitMasks
from eachmask.structures.soft_masks import Canvas, Samples
from eachmask.tasks.instances import INSTANCES

if TYPE_CHECKING:
    from eachmask.structures.spatial import Spatial


class Embedding(NamedTuple):
    """What is known of B images before anybody has asked."""

    features: Tensor  # (B, C, h, w)
    sizes: tuple[tuple[int, int], ...]  # valid (height, width) of each image
    padded: tuple[int, int]  # (height, width) of what the network saw
    finer: tuple[Tensor, ...] = ()  # of the encoder, at twice and four times the resolution (SAM 2)


class Raw(NamedTuple):
    """The answers about P objects."""

    logits: Tensor  # (P, M, 4 h, 4 w)
    ious: Tensor  # (P, M) predicted
    images: Tensor  # (P,) int64
    objects: Tensor  # (P,) int64, their numbers in the image's prompts
    sure: Tensor  # (P,) bool: the prompts leave no doubt, so that the first mask is meant
    sizes: tuple[tuple[int, int], ...]
    padded: tuple[int, int]
    grid: bool = False  # nobody asked: these are points on a grid


class Selected(NamedTuple):
    """The answers that are given, N in all images: object by object, the best first."""

    logits: Tensor  # (N, 4 h, 4 w)
    scores: Tensor  # (N,) predicted IoU, 0..1
    images: Tensor  # (N,) int64
    objects: Tensor  # (N,) int64
    sizes: tuple[tuple[int, int], ...]
    padded: tuple[int, int]
    grid: bool = False


@dataclass(frozen=True)
class Config:
    """What a variant may change."""

    encoder: ViTConfig = ViTConfig()
    prompts: PromptConfig = PromptConfig()
    decoder: DecoderConfig = DecoderConfig()
    losses: LossConfig = LossConfig()
    grid_points: int = 8
    """Points along each side of a training or evaluation image of which nobody says what is meant."""
    score_threshold: float = 0.0
    nms_threshold: float = 0.7
    max_detections: int = 1000


# The model ------------------------------------------------------------------------------------------------------------


class SAM(Network[Raw, Selected, Instances]):
    """An encoder that looks once and a decoder that answers (:class:`~eachmask.models.protocol.Promptable`).

    Args:
        encoder: (B, 3, H, W) -> (B, h, w, channels).
        channels: of what it gives.
    """

    task = INSTANCES
    max_classes = 1
    needs = frozenset({"masks"})
    answered_by = ("decoder.discuss", "decoder.some_masks")
    samples: ClassVar[Samples] = "centers"
    """How coarse masks become pixels."""
    padding: ClassVar[bool] = False
    """Whether a point that is nothing ends the points of objects with a box too."""

    def __init__(
        self,
        encoder: nn.Module,
        channels: int,
        num_classes: int = 1,
        config: Any = None,
        block: type[TwoWayBlock] = TwoWayBlock,
    ) -> None:
        super().__init__()
        config = config or Config()
        self.num_classes, self.config = num_classes, config
        self.encoder = encoder
        self.neck = neck(channels, config.decoder.width)
        self.prompts = PromptEncoder(config.prompts)
        self.decoder = MaskDecoder(config.decoder, block)

    def encode(self, images: ImageBatch) -> Embedding:
        """Look at images: what all questions about them start from."""
        seen = self.encoder(images.tensor).permute(0, 3, 1, 2)
        return Embedding(self.neck(seen).float(), images.sizes, size_of(images.tensor))

    def prompted(self, embedding: Embedding, prompts: Sequence[Prompts]) -> Raw:
        """The answers to the prompts of each image, in its pixels as the network saw them.

        Raises:
            UserError: there are texts.
        """
        grid = size_of(embedding.features)
        cells = (4 * grid[0], 4 * grid[1])
        parts = []
        for i, asked in enumerate(prompts):
            frame = Frame(embedding.sizes[i], embedding.padded, cells)
            for some in said(asked.to(embedding.features.device), frame, self.padding):
                parts.append((i, some, self.answer(embedding, i, some)))
        num, empty = self.decoder.config.masks, embedding.features.new_zeros
        logits = torch.cat([empty(0, num, *cells), *(answer.logits for _, _, answer in parts)])
        ious = torch.cat([empty(0, num), *(answer.ious for _, _, answer in parts)])
        about = [(i, number, some.sure) for i, some, _ in parts for number in some.objects.tolist()]
        images, objects, sure = torch.tensor(about).to(ious.device).reshape(-1, 3).long().unbind(1)
        return Raw(logits, ious, images, objects, sure.bool(), embedding.sizes, embedding.padded)

    def answer(self, embedding: Embedding, image: int, asked: Said) -> Decoded:
        """All masks of objects on one image that are spoken of alike."""
        features = embedding.features[image : image + 1] + self.prompts.dense(asked.masks)
        tokens = self.tokens(asked.points, asked.kinds, embedding.padded)
        decoded: Decoded = self.decoder(features, self.code(embedding), tokens, self.finer(embedding, image))
        return decoded

    def at_points(self, embedding: Embedding, points: Tensor, least: float) -> PointAnswers:
        """What lone points on the first image mean; masks that are not thought good enough are not even drawn.

        Args:
            points: (P, 2) px as the network saw the image.
            least: predicted IoU that a mask has to exceed; 0: all are drawn.
        """
        asked = torch.stack([points.float(), torch.zeros_like(points, dtype=torch.float32)], dim=1)
        kinds = torch.tensor([[ON, NOTHING]]).to(points.device).expand(len(points), -1)
        features = embedding.features[:1] + self.prompts.dense(None)
        tokens = self.tokens(asked, kinds, embedding.padded)
        decoded, image = self.decoder.discuss(features, self.code(embedding), tokens)
        good = decoded.ious[:, 1:] > (least if least > 0 else -torch.inf)
        some = good.any(1)
        finer = self.finer(embedding, 0)
        drawn = self.decoder.masks(decoded.tokens[some], image[some], size_of(features), finer)
        index, which = torch.nonzero(good, as_tuple=True)
        row = some.cumsum(0)[index] - 1
        return PointAnswers(index, drawn[row, which + 1], decoded.ious[index, which + 1])

    def tokens(self, points: Tensor, kinds: Tensor, padded: tuple[int, int]) -> Tensor:
        """Points (P, T, 2) of kinds (P, T) -> (P, T, C)."""
        return self.prompts(points + 0.5, kinds, padded)  # type: ignore[no-any-return]

    def code(self, embedding: Embedding) -> Tensor:
        """Of the cells' places, (1, C, h, w)."""
        return self.prompts.position.grid(size_of(embedding.features))

    def finer(self, embedding: Embedding, image: int) -> tuple[Tensor, Tensor] | None:
        """Features to add to the enlarged ones, where the encoder has any."""
        return None

    def forward(self, images: ImageBatch, given: Sequence[Spatial] | None = None) -> Raw:
        """The answers to the :class:`~eachmask.structures.Prompts` given with each image; else to points on a grid."""
        if given is not None:
            return self.prompted(self.encode(images), cast("Sequence[Prompts]", given))
        asked = [grid_prompts(size, self.config.grid_points) for size in images.sizes]
        return self.prompted(self.encode(images), asked)._replace(grid=True)

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Section 3 and appendix A of the paper: focal and dice loss of the best mask, and the error of its IoU.

        Args:
            targets: the objects of each image, in the order in which its prompts number them.
        """
        points = {i: grid_prompts(size, self.config.grid_points).points for i, size in enumerate(raw.sizes) if raw.grid}
        losses = mask_losses(asked_about(raw, targets, points), targets, self.config.losses)
        idle = sum(parameter.sum() for parameter in self.parameters()) * 0  # what this kind of prompt does not use
        return losses | {"iou": losses["iou"] + idle}

    def select(self, raw: Raw, options: DecodeOptions) -> Selected:
        """The best answer about each object; with ``options.alternatives`` whole, part and subpart, best first."""
        worth = raw.ious.masked_fill(~self.meant(raw, options), -torch.inf)
        chosen = worth.argsort(dim=1, descending=True, stable=True)
        chosen = chosen[:, : raw.ious.shape[1] - 1 if options.alternatives else 1]
        row = torch.arange(len(chosen), device=chosen.device)[:, None].expand_as(chosen)
        scores = raw.ious.float().clamp(0, 1)
        kept = scores[row, chosen] >= options.limits(self.config).score_threshold
        row, chosen = row[kept], chosen[kept]
        return Selected(
            raw.logits[row, chosen],
            scores[row, chosen],
            raw.images[row],
            raw.objects[row],
            raw.sizes,
            raw.padded,
            raw.grid,
        )

    def meant(self, raw: Raw, options: DecodeOptions) -> Tensor:
        """(P, M) bool: which masks may be the answer: the first one, or all others."""
        every = torch.arange(raw.ious.shape[1], device=raw.ious.device)
        return (every > 0) != (raw.sure[:, None] & (not options.alternatives))

    def pack(self, selected: Selected, options: DecodeOptions) -> list[Instances]:
        """One :class:`~eachmask.structures.Instances` per image; ``track_ids`` are the numbers of the objects.

        Of points on a grid, those that mean one thing are answered once, the best first.
        """
        found = [packed(selected, i, options, self.samples) for i in range(len(selected.sizes))]
        if not selected.grid:
            return found
        return [distinct(one, options.limits(self.config)) for one in found]


def asked_about(raw: Raw, targets: Sequence[Instances], points: Mapping[int, Tensor]) -> Raw:
    """The answers that have a target; points on a grid mean the smallest object that they lie on.

    Args:
        points: of the grids, image by image; of images whose prompts were given there are none.
    """
    numbers = raw.objects.clone()
    for i, places in points.items():
        own = raw.images == i
        numbers[own] = owners(places, targets[i]).to(numbers.device)[raw.objects[own]]
    known = [0 <= int(n) < len(targets[int(i)]) for i, n in zip(raw.images, numbers, strict=True)]
    learnt = [k and not targets[int(i)].crowd[n] for k, i, n in zip(known, raw.images, numbers.tolist(), strict=True)]
    index = torch.tensor(learnt, dtype=torch.bool).to(raw.images.device)
    return raw._replace(
        logits=raw.logits[index],
        ious=raw.ious[index],
        images=raw.images[index],
        objects=numbers[index],
        sure=raw.sure[index],
    )


def owners(points: Tensor, target: Instances) -> Tensor:
    """(P, 2) px -> (P,) the number of the smallest object under each point, -1 where there is none."""
    result = torch.full((len(points),), -1)
    masks = target.gt_masks.to_rle()
    height, width = target.image_size
    x, y = (points.long().T.clamp(min=0) % torch.tensor([[width], [height]])).numpy()
    for number in (-masks.area()).argsort(kind="stable").tolist():
        inside = masks[number].decode()[0][y, x]
        result[torch.from_numpy(inside)] = number
    return result


def packed(selected: Selected, image: int, options: DecodeOptions, samples: Samples) -> Instances:
    """The answers about one image of the batch; their masks stay logits."""
    own = torch.nonzero(selected.images == image)[:, 0]
    own = own[selected.objects[own].argsort(stable=True)]
    valid = selected.sizes[image]
    logits = selected.logits[own]
    canvas = Canvas(size_of(logits), selected.padded, valid, valid, samples)
    masks = LogitMasks(logits, canvas, options.mask_threshold)
    boxes = torch.from_numpy(masks.to_rle().boxes()).to(selected.scores.device)
    found = Instances(valid, boxes, masks, scores=selected.scores[own], track_ids=selected.objects[own])
    return found[(boxes[:, 2:] > boxes[:, :2]).all(1)]


def grid_prompts(size: tuple[int, int], side: int) -> Prompts:
    """side x side points, each of an object of its own."""
    shares = torch.from_numpy(point_grid(side)).float()
    return Prompts(size, shares * torch.tensor([size[1], size[0]]), point_objects=torch.arange(side**2))


def distinct(found: Instances, limits: Limits) -> Instances:
    """Answers to points on a grid without repetitions, the best first."""
    assert found.scores is not None
    kept, scores = suppress_boxes(found.boxes, found.scores, found.labels, limits)
    return replace(found[kept], scores=scores, track_ids=None)


def neck(channels: int, width: int) -> nn.Sequential:
    """From the encoder's channels to the decoder's."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 1, bias=False),
        ChannelNorm(width),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        ChannelNorm(width),
    )


def size_of(maps: Tensor) -> tuple[int, int]:
    """(height, width) of (..., h, w)."""
    return int(maps.shape[-2]), int(maps.shape[-1])


# Variants -------------------------------------------------------------------------------------------------------------


LARGE = Config(ViTConfig(width=1024, depth=24, heads=16, everywhere=(5, 11, 17, 23)))
HUGE = Config(ViTConfig(width=1280, depth=32, heads=16, everywhere=(7, 15, 23, 31)))
PREPROCESS = Preprocess(short_side=1024, long_side=1024, divisor=1024, resampling="pil", rounding="nearest")
"""What the authors' weights are for: ``pixel_mean`` / 255 and ``pixel_std`` / 255 are ImageNet's."""


def sam_vit_b(num_classes: int = 1, **config: Any) -> SAM:
    """ViT-B: 12 blocks of 768 channels."""
    return _sam(num_classes, changed(Config(), config))


def sam_vit_l(num_classes: int = 1, **config: Any) -> SAM:
    """ViT-L: 24 blocks of 1024 channels."""
    return _sam(num_classes, changed(LARGE, config))


def sam_vit_h(num_classes: int = 1, **config: Any) -> SAM:
    """ViT-H: 32 blocks of 1280 channels."""
    return _sam(num_classes, changed(HUGE, config))


def _sam(num_classes: int, config: Config) -> SAM:
    return SAM(WindowViT(config.encoder), config.encoder.width, num_classes, config)
