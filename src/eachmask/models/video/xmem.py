"""XMem: objects whose masks are given once are found again by what memory holds of them; these are its networks.

Cheng, Schwing: "XMem: Long-Term Video Object Segmentation with an Atkinson-Shiffrin Memory Model", ECCV 2022, arXiv
2207.07115.

The idea: a query network makes keys of a frame, a value network says of a frame and a mask what belongs to the object.
A place of a new frame reads the values of the places in memory whose keys are like its own:

    similarity = -s_m sum_c e_c (k_m,c - k_q,c)^2 / sqrt(C),

s the shrinkage of the memory (how sure it is), e the selection of the query (which channels matter). A gated unit keeps
a state for each object, and the decoder makes a mask of state, what was read and the frame's finer maps.

Names of weights are those of the authors' checkpoints.

Shapes: T frames, N objects, h x w = H / 16 x W / 16, C channels of keys, P places in memory.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.accel.lazy_dynamo import torchvision

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_TINY = 1e-7


class Keys(NamedTuple):
    """What is known of T frames before any object is asked for."""

    key: Tensor  # (T, C, h, w)
    shrinkage: Tensor  # (T, 1, h, w) from 1
    selection: Tensor  # (T, C, h, w) 0..1
    maps: tuple[Tensor, ...]  # at strides 16, 8 and 4


class ResBlock(nn.Module):
    """Two convolutions of 3 x 3 after a ReLU each."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.downsample = nn.Conv2d(inside, outside, 3, padding=1) if inside != outside else None
        self.conv1 = nn.Conv2d(inside, outside, 3, padding=1)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inside, h, w) -> (N, outside, h, w)."""
        seen: Tensor = self.conv2(F.relu(self.conv1(F.relu(x))))
        return seen + (x if self.downsample is None else self.downsample(x))


class Attention(nn.Module):
    """Channels, then places, are weighed (Woo et al.: "CBAM", ECCV 2018, arXiv 1807.06521)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = channels // 16
        mlp = nn.Sequential(nn.Flatten(), nn.Linear(channels, narrow), nn.ReLU(), nn.Linear(narrow, channels))
        self.ChannelGate = nn.ModuleDict({"mlp": mlp})
        self.SpatialGate = nn.ModuleDict({"spatial": nn.ModuleDict({"conv": nn.Conv2d(2, 1, 7, padding=3)})})

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        mlp = self.ChannelGate["mlp"]
        x = x * (mlp(F.adaptive_avg_pool2d(x, 1)) + mlp(F.adaptive_max_pool2d(x, 1))).sigmoid()[..., None, None]
        both = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)
        weight: Tensor = self.SpatialGate["spatial"]["conv"](both).sigmoid()  # type: ignore[index]
        return x * weight


class Fuser(nn.Module):
    """The features of a frame and those of each object become one."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.block1, self.attention, self.block2 = (
            ResBlock(inside, outside),
            Attention(outside),
            ResBlock(outside, outside),
        )

    def forward(self, frame: Tensor, objects: Tensor) -> Tensor:
        """(1, C, h, w), (N, C', h, w) -> (N, outside, h, w)."""
        x = self.block1(torch.cat([frame.expand(len(objects), -1, -1, -1), objects], 1))
        merged: Tensor = self.block2(x + self.attention(x))
        return merged


def gated(values: Tensor, hidden: Tensor) -> Tensor:
    """A gated unit's next state, from its three gates stacked."""
    forget, update, new = values.chunk(3, 1)
    update = update.sigmoid()
    return forget.sigmoid() * hidden * (1 - update) + update * new.tanh()


class KeyEncoder(nn.Module):
    """ResNet-50 to stride 16."""

    def __init__(self) -> None:
        super().__init__()
        resnet = torchvision().models.resnet50(weights=None)
        self.conv1, self.bn1, self.res2, self.layer2, self.layer3 = (
            getattr(resnet, name) for name in ("conv1", "bn1", "layer1", "layer2", "layer3")
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(T, 3, H, W) -> maps at strides 16, 8, 4."""
        f4 = self.res2(F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1))
        f8 = self.layer2(f4)
        return self.layer3(f8), f8, f4


class KeyProjection(nn.Module):
    """Keys, shrinkage and selection of places."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.key_proj, self.d_proj, self.e_proj = (nn.Conv2d(1024, c, 3, padding=1) for c in (channels, 1, channels))


class ValueEncoder(nn.Module):
    """ResNet-18 to stride 16 of a frame, the mask of an object, and the sum of the others'."""

    def __init__(self, values: int, hidden: int) -> None:
        super().__init__()
        resnet = torchvision().models.resnet18(weights=None)
        self.conv1 = nn.Conv2d(5, 64, 7, 2, 3, bias=False)
        self.bn1, self.layer1, self.layer2, self.layer3 = (
            getattr(resnet, name) for name in ("bn1", "layer1", "layer2", "layer3")
        )
        self.fuser = Fuser(1024 + 256, values)
        self.hidden_reinforce = nn.ModuleDict({"transform": nn.Conv2d(values + hidden, 3 * hidden, 3, padding=1)})

    def forward(self, frame: Tensor, f16: Tensor, masks: Tensor) -> Tensor:
        """(1, 3, H, W), its map, masks (N, H, W) -> (N, values, h, w)."""
        pairs = torch.stack([masks, masks.sum(0) - masks], 1)
        x = torch.cat([frame.expand(len(masks), -1, -1, -1), pairs], 1)
        x = F.relu(F.max_pool2d(self.bn1(self.conv1(x)), 3, 2, 1))
        values: Tensor = self.fuser(f16, self.layer3(self.layer2(self.layer1(x))))
        return values


class UpBlock(nn.Module):
    """Twice as large, with a finer map of the frame added."""

    def __init__(self, skip: int, inside: int, outside: int) -> None:
        super().__init__()
        self.skip_conv, self.out_conv = nn.Conv2d(skip, inside, 3, padding=1), ResBlock(inside, outside)

    def forward(self, finer: Tensor, x: Tensor) -> Tensor:
        """(1, skip, 2 h, 2 w), (N, inside, h, w) -> (N, outside, 2 h, 2 w)."""
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        out: Tensor = self.out_conv(x + self.skip_conv(finer))
        return out


class Decoder(nn.Module):
    """What was read and the states of objects -> logits, and the next states."""

    def __init__(self, values: int, hidden: int) -> None:
        super().__init__()
        self.fuser = Fuser(1024 + values + hidden, 512)
        self.hidden_update = nn.ModuleDict(
            {
                "g16_conv": nn.Conv2d(512, 256, 1),
                "g8_conv": nn.Conv2d(256, 256, 1),
                "g4_conv": nn.Conv2d(257, 256, 1),
                "transform": nn.Conv2d(256 + hidden, 3 * hidden, 3, padding=1),
            }
        )
        self.up_16_8, self.up_8_4 = UpBlock(512, 512, 256), UpBlock(256, 256, 256)
        self.pred = nn.Conv2d(256, 1, 3, padding=1)

    def forward(self, maps: tuple[Tensor, ...], read: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Maps of a frame, (N, values, h, w), (N, hidden, h, w) -> logits (N, 4 h, 4 w), states."""
        f16, f8, f4 = maps
        g16 = self.fuser(f16, torch.cat([read, hidden], 1))
        g8 = self.up_16_8(f8, g16)
        g4 = self.up_8_4(f4, g8)
        logits = self.pred(F.relu(g4))
        update, g4 = self.hidden_update, torch.cat([g4, logits], 1)
        seen = update["g16_conv"](g16)
        for name, finer, share in (("g8_conv", g8, 0.5), ("g4_conv", g4, 0.25)):
            seen = seen + update[name](F.interpolate(finer, scale_factor=share, mode="area"))
        return logits[:, 0], gated(update["transform"](torch.cat([seen, hidden], 1)), hidden)


class XMem(nn.Module):
    """The networks; :class:`~eachmask.models.video.memory.Follower` runs them over a video.

    Args:
        keys, values, hidden: channels.
    """

    def __init__(self, keys: int = 64, values: int = 512, hidden: int = 64) -> None:
        super().__init__()
        self.hidden = hidden
        self.key_encoder, self.key_proj = KeyEncoder(), KeyProjection(keys)
        self.value_encoder, self.decoder = ValueEncoder(values, hidden), Decoder(values, hidden)

    @staticmethod
    def of(weights: dict[str, Tensor]) -> XMem:
        """With the weights of a checkpoint, whose widths they tell; those trained with one mask get a second.

        Raises:
            RuntimeError, KeyError: they are not of this network.
        """
        weights = dict(weights)
        first = weights["value_encoder.conv1.weight"]
        if first.shape[1] == 4:
            weights["value_encoder.conv1.weight"] = torch.cat([first, torch.zeros_like(first[:, :1])], 1)
        keys, values = len(weights["key_proj.key_proj.bias"]), len(weights["value_encoder.fuser.block1.conv1.bias"])
        network = XMem(keys, values, len(weights["decoder.hidden_update.transform.bias"]) // 3)
        network.load_state_dict(weights)
        return network.eval()

    def look(self, frames: Tensor) -> Keys:
        """(T, 3, H, W), normalized, sides multiples of 16."""
        maps = self.key_encoder(frames)
        project = self.key_proj
        return Keys(
            project.key_proj(maps[0]), project.d_proj(maps[0]) ** 2 + 1, project.e_proj(maps[0]).sigmoid(), maps
        )

    def value(self, frame: Tensor, f16: Tensor, masks: Tensor) -> Tensor:
        """What memory keeps of objects: (1, 3, H, W), (1, 1024, h, w), (N, H, W) -> (N, values, h, w)."""
        return self.value_encoder(frame, f16, masks)  # type: ignore[no-any-return]

    def remembered(self, frame: Tensor, seen: Keys, masks: Tensor) -> Tensor:
        """:meth:`value`, of what was seen."""
        return self.value(frame, seen.maps[0], masks)

    def reinforce(self, value: Tensor, hidden: Tensor) -> Tensor:
        """The states of objects after their values have been seen."""
        transform = self.value_encoder.hidden_reinforce["transform"]
        return gated(transform(torch.cat([value, hidden], 1)), hidden)

    def segment(self, maps: tuple[Tensor, ...], read: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities (1 + N, H, W), background first, and the next states."""
        logits, hidden = self.decoder(maps, read, hidden)
        large = F.interpolate(logits[None], scale_factor=4.0, mode="bilinear", align_corners=False)[0]
        return aggregate(large.sigmoid()), hidden


def similarity(key: Tensor, shrinkage: Tensor | None, query: Tensor, selection: Tensor | None) -> Tensor:
    """How alike places are: keys (C, P) with shrinkage (P,), queries (C, Q) with selection (C, Q) -> (P, Q)."""
    if selection is None:
        alike = 2 * key.T @ query - (key**2).sum(0)[:, None]
        alike = alike / math.sqrt(len(key))
        return alike if shrinkage is None else alike * shrinkage[:, None]
    scale = (1.0 if shrinkage is None else shrinkage) / math.sqrt(len(key))
    places = torch.cat([2 * key, -(key**2), key.new_full((1, key.shape[1]), -1)]) * scale
    asked = torch.cat([query * selection, selection, (selection * query**2).sum(0, keepdim=True)])
    return (asked.T @ places).T  # one product, with a query's places side by side in memory for those who want the best


def affinity(alike: Tensor, top: int | None = None) -> Tensor:
    """Weights (P, Q) that sum to 1 over the memory; of the best ``top`` places alone, or of all."""
    if top is None or top >= len(alike):
        return alike.softmax(0)
    values, places = alike.topk(top, 0)
    return torch.zeros_like(alike).scatter(0, places, values.softmax(0))


def read_best(alike: Tensor, values: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """What queries read from their best places: :func:`affinity` without a full matrix.

    Args:
        alike: (P, Q); values: (N, V, P).

    Returns:
        (N, V, Q), and how much each place was read (P,).
    """
    best, places = alike.topk(min(top, len(alike)), 0)
    weights, places = best.softmax(0).T.contiguous(), places.T.contiguous()
    read = F.embedding_bag(places, values.flatten(0, 1).T.contiguous(), per_sample_weights=weights, mode="sum")
    used = alike.new_zeros(len(alike)).index_add(0, places.flatten(), weights.flatten())
    return read.T.unflatten(0, values.shape[:2]), used


def aggregate(masks: Tensor) -> Tensor:
    """Probabilities of N objects, each by itself (N, ...) -> of background and all of them together (1 + N, ...)."""
    every = torch.cat([(1 - masks).prod(0, keepdim=True), masks]).clamp(_TINY, 1 - _TINY)
    return (every / (1 - every)).log().softmax(0)
