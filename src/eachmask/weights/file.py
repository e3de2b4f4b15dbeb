"""One file is one model: a ``.safetensors`` file whose header says everything that is needed to use it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from eachmask import models
from eachmask.files.tensors import checksum_of, write_tensors
from eachmask.models.crop_classifier import Config as ClassifierConfig
from eachmask.models.crop_classifier import CropClassifier, with_narrower
from eachmask.structures import Category, UserError
from eachmask.weights.header import SCHEMA, ModelInfo
from eachmask.weights.migrate import migrated_weight
from eachmask.weights.schema import Schema, SchemaError

__all__ = ["ModelInfo", "load_classifier", "load_model", "read_info", "replace_info", "save_model"]

HEADER = "eachmask"
"""Key of the JSON text in the file's metadata."""
CLASSIFIER = "crop_classifier."
"""Begins the names of the tensors that are the classifier's, not the model's."""
CHECKSUMS = ', "checksums": '
"""Begins the last field of that text: name of each tensor -> its CRC-32, and ``HEADER`` -> that of the text before.
Older files have none."""
_CHUNK_SIZE = 16
"""Tensors that are read before the file is closed for a moment."""


def save_model(
    path: str | Path, model: nn.Module, info: ModelInfo, *, half: bool = False, classifier: CropClassifier | None = None
) -> Path:
    """Write model and info, atomically: the file is complete or absent.

    Args:
        half: store weights as float16, half the size; they are widened again on loading.
        classifier: goes into the same file.
    """
    tensors = {}
    state = dict(model.state_dict())
    if classifier is not None:
        info = replace(info, crop_classifier=classifier.config.to_dict())
        state |= {CLASSIFIER + name: value for name, value in classifier.state_dict().items()}
    for name, value in state.items():
        value = value.detach().cpu().contiguous()
        tensors[name] = value.half() if half and value.dtype == torch.float32 else value.clone()
    return _write(Path(path), tensors, info)


def replace_info(path: str | Path, **changes: Any) -> ModelInfo:
    """Rewrite the header of a model file, atomically, without touching the weights.

    Args:
        changes: fields of :class:`ModelInfo`, e.g. ``card=Path("docs/models/nuclei.md").read_text()``.

    Raises:
        UserError: see :func:`read_info`.
    """
    info = replace(read_info(path), **changes)
    with safe_open(path, framework="pt") as handle:
        sums = _checksums(handle.metadata()[HEADER], path)
        tensors = {migrated_weight(key): _weight(handle, key, sums, path) for key in handle.keys()}  # noqa: SIM118
    _write(Path(path), tensors, info)
    return info


def _write(path: Path, tensors: dict[str, Tensor], info: ModelInfo) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = info.to_json().removesuffix("}")
    sums = {HEADER: crc32(head.encode())} | {name: checksum_of(tensor) for name, tensor in tensors.items()}
    write_tensors(path, tensors, {HEADER: f"{head}{CHECKSUMS}{json.dumps(sums)}}}"})
    return path


def _checksums(text: str, path: str | Path) -> dict[str, int]:
    """Of the tensors, by name, from the text of the header, which is checked itself; empty if it has none."""
    head, found, rest = text.rpartition(CHECKSUMS)
    if not found:
        return {}
    try:
        sums: dict[str, int] = SCHEMA.read(dict[str, int], json.loads(rest.removesuffix("}")))
    except (ValueError, RecursionError):
        sums = {}
    if sums.get(HEADER) != crc32(head.encode()):
        raise UserError(f"the eachmask header of {path} is damaged (its checksum differs): fetch or save it again")
    return sums


def _weight(handle: Any, key: str, sums: dict[str, int], path: str | Path) -> Tensor:
    weight: Tensor = handle.get_tensor(key)
    if key in sums and checksum_of(weight) != sums[key]:
        raise UserError(f"{path} is damaged (the checksum of {key} differs): fetch or save it again")
    return weight


def read_info(path: str | Path) -> ModelInfo:
    """What the file says about itself, without reading the weights.

    Raises:
        UserError: no such file, not a model file of ours, or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"the model file {path} does not exist")
    try:
        with safe_open(path, framework="pt") as handle:
            text = (handle.metadata() or {}).get(HEADER)
    except SafetensorError as error:
        raise UserError(f"{path} is damaged or no .safetensors file ({error}): fetch or save it again") from error
    if text is None:
        raise UserError(
            f"{path} holds weights but no eachmask header: only files written by eachmask can be loaded by path"
        )
    _checksums(text, path)
    try:
        return ModelInfo.from_json(text)
    except SchemaError as error:
        raise UserError(f"the eachmask header of {path} cannot be used, for {error}: save the model again") from error


def load_model(path: str | Path) -> tuple[nn.Module, ModelInfo]:
    """Build the variant and fill in the weights, in eval mode on the CPU, float32.

    Raises:
        UserError: see :func:`read_info`; or weights are damaged, or do not fit the variant.
    """
    info = read_info(path)
    model = build(info, path)
    try:
        _fill(model, path, lambda name: None if name.startswith(CLASSIFIER) else name)
    except RuntimeError as error:
        raise UserError(f"{path} does not fit its variant {info.variant} ({error}): save the model again") from error
    return model.eval(), info


def build(info: ModelInfo, path: str | Path) -> nn.Module:
    """The variant with new weights; its settings came from a file, so that any of them may be wrong.

    Raises:
        UserError: there is no such variant, or it cannot be built so.
    """
    if not info.categories:
        raise UserError(f"{path} has no categories, so its model would find nothing: save the model again with some")
    try:
        build = models.variant(info.variant)
    except UserError as error:
        raise UserError(f"the variant of {path} is unknown, for {error}") from error
    try:
        model: nn.Module = build(num_classes=len(info.categories), **info.config)
        config = getattr(model, "config", None)
        Schema().read(type(config), config, "config")
    except Exception as error:
        raise UserError(
            f"the config of {path} does not fit its variant {info.variant} ({_line(error)}): save the model again"
        ) from error
    return model


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).split("\n")[0]


def load_classifier(path: str | Path) -> CropClassifier | None:
    """What gives the model's objects narrower names, in eval mode on the CPU, float32; None if the file has none.

    Raises:
        UserError: see :func:`read_info`; or its weights and settings do not fit together.
    """
    settings = read_info(path).crop_classifier
    if settings is None:
        return None
    try:
        classifier = CropClassifier(SCHEMA.read(ClassifierConfig, settings, "crop_classifier"))
        _fill(classifier, path, lambda name: name.removeprefix(CLASSIFIER) if name.startswith(CLASSIFIER) else None)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"the crop_classifier of {path} does not fit ({_line(error)}): save the model again") from error
    return classifier.eval()


def categories_of(info: ModelInfo) -> tuple[Category, ...]:
    """All that the model may call an object, the narrower names of its classifier among them.

    Raises:
        UserError: the classifier's settings make no sense.
    """
    if info.crop_classifier is None:
        return tuple(info.categories)
    try:
        return with_narrower(info.categories, SCHEMA.read(ClassifierConfig, info.crop_classifier, "crop_classifier"))[0]
    except (ValueError, IndexError) as error:
        name = info.name or info.variant
        raise UserError(f"the crop_classifier of {name} does not fit ({_line(error)}): save the model again") from error


def _fill(module: nn.Module, path: str | Path, rename: Callable[[str], str | None]) -> None:
    """Fill in the weights, a few at a time: what a file's pages take goes back when it is closed.

    Args:
        rename: key of the file -> the module's; None for what belongs to another.

    Raises:
        RuntimeError: a weight is missing, left over or of another shape.
    """
    with safe_open(path, framework="pt") as handle:
        keys_now = {key: migrated_weight(key) for key in handle.keys()}  # noqa: SIM118
        sums = _checksums(handle.metadata()[HEADER], path)
    names = {key: name for key, now in keys_now.items() if (name := rename(now)) is not None}
    own = module.state_dict()
    if different := set(own) ^ set(names.values()):
        raise RuntimeError(f"missing or left over: {sorted(different)[:5]}")
    keys = iter(names.items())
    while some := list(islice(keys, _CHUNK_SIZE)):
        with safe_open(path, framework="pt") as handle, torch.no_grad():
            for key, name in some:
                weight = _weight(handle, key, sums, path)
                if weight.shape != own[name].shape:
                    raise RuntimeError(f"{name} is {tuple(weight.shape)}, not {tuple(own[name].shape)}")
                own[name].copy_(weight)
