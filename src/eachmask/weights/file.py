"""One file is one model: a ``.safetensors`` file whose header says everything that is needed to use it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from eachmask import models
from eachmask.models.crop_classifier import Config as ClassifierConfig
from eachmask.models.crop_classifier import CropClassifier
from eachmask.structures import Category, Preprocess, UserError
from eachmask.weights.migrate import FORMAT, migrated_header, migrated_weight

HEADER = "eachmask"
"""Key of the JSON text in the file's metadata."""
CLASSIFIER = "crop_classifier."
"""Begins the names of the tensors that are the classifier's, not the model's."""
_WEIGHTS_AT_ONCE = 16
"""Tensors that are read before the file is closed for a moment."""


@dataclass(frozen=True)
class ModelInfo:
    """What a model file says about itself."""

    variant: str
    """Name of the variant function in ``eachmask.models``."""
    config: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the variant function besides ``num_classes``."""
    preprocess: Preprocess = Preprocess()
    categories: tuple[Category, ...] = ()
    license: str = ""
    training: dict[str, Any] = field(default_factory=dict)
    """Recipe, steps, seed and data of the run that made the weights."""
    scores: dict[str, Any] = field(default_factory=dict)
    """Measured by us, as fractions 0..1."""
    decode: dict[str, Any] = field(default_factory=dict)
    """DecodeOptions that differ from the model's defaults."""
    tile: int | None = None
    """Larger images are predicted in tiles of this side, px; None: in one pass, whatever the size."""
    crop_classifier: dict[str, Any] | None = None
    """Settings of a :class:`~eachmask.models.crop_classifier.CropClassifier` in the same file; None without one."""
    name: str = ""
    card: str = ""
    """The model card, Markdown."""

    def to_json(self) -> str:
        """The header's text."""
        return json.dumps({"format": FORMAT} | asdict(self), ensure_ascii=False)

    @staticmethod
    def from_json(text: str) -> ModelInfo:
        """Undo of :meth:`to_json`; fields of later versions are passed over."""
        values = migrated_header(json.loads(text))
        known = {k: v for k, v in values.items() if k in ModelInfo.__dataclass_fields__}
        known["preprocess"] = Preprocess.from_dict(known["preprocess"])
        known["categories"] = tuple(_category(row) for row in known["categories"])
        return ModelInfo(**known)


def _category(row: dict[str, Any]) -> Category:
    """JSON knows lists only."""
    skeleton = tuple((int(a), int(b)) for a, b in row.get("skeleton", ()))
    return Category(**(row | {"keypoints": tuple(row.get("keypoints", ())), "skeleton": skeleton}))


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
        tensors = {migrated_weight(key): handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
    _write(Path(path), tensors, info)
    return info


def _write(path: Path, tensors: dict[str, Tensor], info: ModelInfo) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        part.touch()
        mode = part.stat().st_mode  # the user's own default; save_file would leave a file for its owner alone
        save_file(tensors, part, metadata={HEADER: info.to_json()})
        part.chmod(mode)
        with open(part, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def read_info(path: str | Path) -> ModelInfo:
    """What the file says about itself, without reading the weights.

    Raises:
        UserError: no such file, or not a model file of ours.
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
    try:
        return ModelInfo.from_json(text)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the eachmask header of {path} cannot be read: the file is of another version") from error


def load_model(path: str | Path) -> tuple[nn.Module, ModelInfo]:
    """Build the variant and fill in the weights, in eval mode on the CPU, float32.

    Raises:
        UserError: see :func:`read_info`; or weights and variant do not fit together.
    """
    info = read_info(path)
    build = models.variant(info.variant)
    try:
        model: nn.Module = build(num_classes=len(info.categories), **info.config)
        _fill(model, path, lambda name: None if name.startswith(CLASSIFIER) else name)
    except (TypeError, RuntimeError) as error:
        raise UserError(f"{path} does not fit its variant {info.variant}: it was written by another version") from error
    return model.eval(), info


def load_classifier(path: str | Path) -> CropClassifier | None:
    """What gives the model's objects narrower names, in eval mode on the CPU, float32; None if the file has none.

    Raises:
        UserError: see :func:`read_info`; or its weights and settings do not fit together.
    """
    settings = read_info(path).crop_classifier
    if settings is None:
        return None
    try:
        classifier = CropClassifier(ClassifierConfig.from_dict(settings))
        _fill(classifier, path, lambda name: name.removeprefix(CLASSIFIER) if name.startswith(CLASSIFIER) else None)
    except (TypeError, KeyError, RuntimeError) as error:
        raise UserError(f"the names in {path} do not fit this version of eachmask") from error
    return classifier.eval()


def _fill(module: nn.Module, path: str | Path, rename: Callable[[str], str | None]) -> None:
    """Fill in the weights, a few at a time: what a file's pages take goes back when it is closed.

    Args:
        rename: key of the file -> the module's; None for what belongs to another.

    Raises:
        RuntimeError: a weight is missing, left over or of another shape.
    """
    with safe_open(path, framework="pt") as handle:
        keys_now = {key: migrated_weight(key) for key in handle.keys()}  # noqa: SIM118
    names = {key: name for key, now in keys_now.items() if (name := rename(now)) is not None}
    own = module.state_dict()
    if different := set(own) ^ set(names.values()):
        raise RuntimeError(f"missing or left over: {sorted(different)[:5]}")
    keys = iter(names.items())
    while some := list(islice(keys, _WEIGHTS_AT_ONCE)):
        with safe_open(path, framework="pt") as handle, torch.no_grad():
            for key, name in some:
                weight = handle.get_tensor(key)
                if weight.shape != own[name].shape:
                    raise RuntimeError(f"{name} is {tuple(weight.shape)}, not {tuple(own[name].shape)}")
                own[name].copy_(weight)
