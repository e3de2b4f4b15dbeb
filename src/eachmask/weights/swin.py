"""Swin transformers of other projects under our names, which are torchvision's; their classifiers are left out.

Four dialects: torchvision's, the original detectors' (timm's differs in where the halving belongs), MMDetection's and
MMSegmentation's (which list the channels of four tokens in another order), and transformers' (queries, keys and values
apart). Networks that end in a classifier have no norm for each stage: those of ours then stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from eachmask.weights.renaming import NOT_LEARNED, Rule, rename

_BLOCKS: tuple[Rule, ...] = (
    (r"^layers\.(\d)\.blocks\.(\d+)\.mlp\.fc1\.", r"net.features.<\1.\2.mlp.0."),
    (r"^layers\.(\d)\.blocks\.(\d+)\.mlp\.fc2\.", r"net.features.<\1.\2.mlp.3."),
    (r"^layers\.(\d)\.blocks\.(\d+)\.", r"net.features.<\1.\2."),
    (r"^layers\.(\d)\.downsample\.", r"net.features.>\1."),
)
_PATCHES: tuple[Rule, ...] = (
    (r"^patch_embed\.proj(ection)?\.", "net.features.0.0."),
    (r"^patch_embed\.norm\.", "net.features.0.2."),
)
ORIGINAL: tuple[Rule, ...] = (*_PATCHES, *_BLOCKS, (r"^norm(\d)\.", r"norms.\1."), (r"^(norm|head)\.", ""))
MMDET: tuple[Rule, ...] = (
    *_PATCHES,
    (r"^stages\.(\d)\.blocks\.(\d+)\.attn\.w_msa\.", r"net.features.<\1.\2.attn."),
    (r"^stages\.(\d)\.blocks\.(\d+)\.ffn\.layers\.0\.0\.", r"net.features.<\1.\2.mlp.0."),
    (r"^stages\.(\d)\.blocks\.(\d+)\.ffn\.layers\.1\.", r"net.features.<\1.\2.mlp.3."),
    (r"^stages\.(\d)\.blocks\.(\d+)\.", r"net.features.<\1.\2."),
    (r"^stages\.(\d)\.downsample\.", r"net.features.>\1."),
    (r"^norm(\d)\.", r"norms.\1."),
)
_THEIRS = r"^encoder\.layers\.(\d)\.blocks\.(\d+)\."
TRANSFORMERS: tuple[Rule, ...] = (
    (r"^embeddings\.patch_embeddings\.projection\.", "net.features.0.0."),
    (r"^embeddings\.norm\.", "net.features.0.2."),
    (rf"{_THEIRS}attention\.self\.(query|key|value)\.", r"net.features.<\1.\2.attn.\3."),
    (rf"{_THEIRS}attention\.self\.", r"net.features.<\1.\2.attn."),
    (rf"{_THEIRS}attention\.output\.dense\.", r"net.features.<\1.\2.attn.proj."),
    (rf"{_THEIRS}layernorm_before\.", r"net.features.<\1.\2.norm1."),
    (rf"{_THEIRS}layernorm_after\.", r"net.features.<\1.\2.norm2."),
    (rf"{_THEIRS}intermediate\.dense\.", r"net.features.<\1.\2.mlp.0."),
    (rf"{_THEIRS}output\.dense\.", r"net.features.<\1.\2.mlp.3."),
    (r"^encoder\.layers\.(\d)\.downsample\.", r"net.features.>\1."),
    (r"^layernorm\.", ""),
)  # fmt: skip


def from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's classifier.

    Raises:
        UserError: an entry that no rule knows, as of all functions here.
    """
    return rename(_learned(state), ((r"^features\.", "net.features."), (r"^(norm|head)\.", "")), "torchvision")


def from_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The original classifiers and detectors (halving ends a stage) and timm's (it begins one)."""
    late = any(name.startswith("layers.0.downsample.") for name in state)
    return _placed(rename(_learned(state), ORIGINAL, "Swin"), 2 if late else 0)


def from_mmdet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """MMDetection's and MMSegmentation's, without their ``backbone.``."""
    found = _placed(rename(_learned(state), MMDET, "MMDetection"), 2)
    return {name: _blockwise(value) if _HALVING.match(name) else value for name, value in found.items()}


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """transformers' as it is saved, without what stands before ``embeddings``; entries of ``norms.`` stay."""
    norms = {name: value for name, value in state.items() if name.startswith("norms.")}
    renamed = rename({k: v for k, v in _learned(state).items() if k not in norms}, TRANSFORMERS, "transformers")
    fused: dict[str, Tensor] = {}
    for name, value in renamed.items():
        if ".attn.query." in name:
            parts = [renamed[name.replace(".query.", f".{part}.")] for part in ("query", "key", "value")]
            fused[name.replace(".query.", ".qkv.")] = torch.cat(parts)
        elif ".attn.key." not in name and ".attn.value." not in name:
            fused[name] = value
    return _placed(fused, 2) | norms


_HALVING = re.compile(r"^net\.features\.[246]\.(norm|reduction)\.")


def _learned(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.endswith((*NOT_LEARNED, "attn_mask"))}


def _placed(state: Mapping[str, Tensor], offset: int) -> dict[str, Tensor]:
    """Stages by their places in torchvision's list.

    Args:
        offset: 2 where the halving with the number of a stage comes behind it, 0 where it comes before.
    """
    places = {f"<{stage}": f"{2 * stage + 1}" for stage in range(4)} | {f">{s}": f"{2 * s + offset}" for s in range(4)}
    return {re.sub(r"[<>]\d", lambda found: places[found[0]], name): value for name, value in state.items()}


def _blockwise(value: Tensor) -> Tensor:
    """From the order channel, row, column of four tokens' channels to torchvision's column, row, channel."""
    channels = value.shape[-1] // 4
    grid = value.reshape(*value.shape[:-1], channels, 2, 2)
    return grid.movedim((-1, -2), (-3, -2)).reshape(value.shape)
