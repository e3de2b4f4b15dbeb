"""Checkpoints of other projects that lie on this machine -> model files of ours, whichever project wrote them.

No name says which converter fits: all of them are tried, and one fits where every weight has its place and its shape.
"""

from __future__ import annotations

import importlib
import pickle
import pkgutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from eachmask import models, weights
from eachmask.files.pickled import read_pickle
from eachmask.models.protocol import Promptable
from eachmask.structures import Category, Matte, Preprocess, UserError
from eachmask.weights.catalogue import Entry, entries
from eachmask.weights.coco_categories import ANYTHING, FOREGROUND
from eachmask.weights.header import ModelInfo
from eachmask.weights.renaming import fill, unwrapped

CAFFE_STD = (1 / 255, 1 / 255, 1 / 255)
"""Of images in 0..1: networks of Caffe see 0..255."""
LICENSE = "that of the checkpoint's makers, which was not looked up"


def adopt(
    checkpoint: Path, variant: str, classes: Sequence[str] = (), *, bgr: bool = False
) -> tuple[nn.Module, ModelInfo]:
    """A variant with the weights of another project's checkpoint, and the header of its file.

    Args:
        checkpoint: .pth, .pt or .bin of torch, .safetensors, or a .pkl of Detectron2.
        classes: names in the order of the network's outputs; by default those of the published weights of the variant.
            Networks of mattes have none; those that answer prompts need none.
        bgr: the network learned from BGR images less their mean, as Caffe's and many of Detectron2's. Without it images
            are normalized as for the published weights, or for ImageNet's.

    Raises:
        UserError: the file is none, there is no such variant, its classes are not known, or no converter fits.
    """
    build, known = models.variant(variant), entries().get(variant)
    info = replace(_header(variant, known, classes), license=LICENSE, training={"source": checkpoint.name})
    if bgr:
        info = replace(info, preprocess=replace(info.preprocess, channels="bgr", std=CAFFE_STD))
    model = build(num_classes=len(info.categories), **info.config)
    state = {name: torch.as_tensor(value) for name, value in unwrapped(read_checkpoint(checkpoint)).items()}
    converter = _fill_by_any(model, state, known, checkpoint)
    return model.eval(), replace(info, license=getattr(converter, "LICENSE", LICENSE))


def _header(variant: str, known: Entry | None, classes: Sequence[str]) -> ModelInfo:
    """What is known of a variant before its weights are read.

    Raises:
        UserError: its classes are not known, or it makes mattes, which have none.
    """
    network: Any = models.model_class(variant)
    if network.task.target is Matte and classes:
        raise UserError(f"{variant} makes mattes, which have no classes: leave out --classes")
    own = FOREGROUND if network.task.target is Matte else ANYTHING if issubclass(network, Promptable) else ()
    usual = known.categories if known else own
    if not usual and not classes:
        raise UserError(f"the classes of {variant} are not known: give a file with one name on each line, --classes")
    named = tuple(Category(i, name) for i, name in enumerate(dict.fromkeys(classes), start=1))
    preprocess = known.preprocess if known else network.preprocess or Preprocess()
    config = dict(known.config) if known and not classes else {}
    return ModelInfo(
        variant,
        preprocess=preprocess,
        categories=named or usual,
        config=config,
        object_diameter=known.object_diameter if known else None,
    )


def read_checkpoint(path: Path, said: str = "") -> dict[str, Any]:
    """What a file of weights holds; nothing that it names is run.

    Args:
        said: what the file is called in messages, by default its path.

    Raises:
        UserError: it cannot be read, or holds anything else than weights.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".pkl":
            found = _copied(read_pickle(path))
        else:
            found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{said or path} cannot be read ({error.strerror or error})") from error
    except (pickle.UnpicklingError, EOFError, RuntimeError, SafetensorError) as error:
        raise UserError(f"{said or path} holds something else than plain weights, so it was not read") from error
    if not isinstance(found, dict):
        raise UserError(f"{said or path} holds something else than plain weights, so it was not read")
    return found


def _copied(value: Any) -> Any:
    """Arrays that torch may write to."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return np.array(value) if isinstance(value, np.ndarray) else value


def _fill_by_any(model: nn.Module, state: dict[str, Tensor], known: Entry | None, path: Path) -> ModuleType:
    """Fill the model by the first converter that fits, and say which."""
    misfit = ""
    for name in _converters(known):
        module = importlib.import_module(f"eachmask.weights.{name}")
        convert = getattr(module, "convert", None)
        try:
            converted = convert(state) if convert is not None else {}
        except Exception:  # names of another project lead a converter anywhere
            continue
        try:
            fill(model, converted)
            return module
        except UserError as error:
            misfit = misfit or str(error)
    raise UserError(f"{path} does not fit this variant: {misfit or f'nobody names weights like {next(iter(state))}'}")


def _converters(known: Entry | None) -> Iterator[str]:
    """Modules below ``eachmask.weights``, that of the published weights first."""
    if known is not None:
        yield known.converter
    prefix = f"{weights.__name__}."
    for module in pkgutil.walk_packages(weights.__path__, prefix):
        if module.name.startswith(f"{prefix}from_") and not module.ispkg:
            yield module.name.removeprefix(prefix)
