"""load: from a model's name or file to something that predicts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from eachmask.inference.devices import find_device, find_precision
from eachmask.inference.fastest import fastest
from eachmask.inference.predictor import Predictor
from eachmask.inference.prompt_predictor import PromptPredictor
from eachmask.models.protocol import Promptable
from eachmask.structures import UserError

if TYPE_CHECKING:
    from eachmask.runtimes.sessions import Session
    from eachmask.weights.header import ModelInfo


def load(
    name_or_path: str | Path, *, device: str = "auto", precision: str = "auto", side: int | None = None
) -> Predictor[Any]:
    """The model of this name, in this ``.safetensors`` file, or of the run in this folder, ready to predict.

    >>> import numpy as np
    >>> predictor = load("nuclei", device="cpu", precision="fp32")
    >>> image = np.zeros((64, 64, 3), np.uint8)
    >>> yy, xx = np.mgrid[:64, :64]
    >>> image[(yy - 32) ** 2 + (xx - 32) ** 2 < 10**2] = 200  # one bright disk
    >>> found = predictor.predict(image)
    >>> len(found), [found.categories[label].name for label in found.labels]
    (1, ['nucleus'])

    A name is looked up in the catalogue (``eachmask models`` lists it); weights that are neither bundled nor in
    the cache are downloaded once. ``hf:OWNER/NAME`` is a segmentation model of transformers, see
    :mod:`eachmask.inference.hf_models`. What ``eachmask export`` has written (``.onnx``, ``.xml``, ``.pt2``) is run by
    the runtime that it was written for.

    Args:
        device: cpu, cuda, cuda:1, mps, or auto: a GPU if there is one.
        precision: fp32, bf16, fp16, or auto: fp16 on CUDA; on CPUs that compute in bf16 what a short measurement finds
            faster, which is remembered (:mod:`eachmask.inference.fastest`); else fp32.
        side: longer side of every image as the network sees it, px: smaller is faster, larger finds smaller things.
            By default what the model was made for.

    Raises:
        UserError: no such model, weights out of reach, a device that is not there, or a model without that choice.
    """
    from eachmask.models.matting.solvers import SOLVERS, solver
    from eachmask.models.promptable.without_learning import CLASSICS
    from eachmask.runtimes.sessions import session_of
    from eachmask.weights.fetch import locate
    from eachmask.weights.file import load_classifier, load_model, read_info

    if str(name_or_path).startswith("hf:"):
        from eachmask.inference.hf_models import load_hf

        return load_hf(str(name_or_path), device=device, precision=precision, side=side)
    find_precision(precision, find_device(device))  # what is not there is said before anything is downloaded or read
    if str(name_or_path) in CLASSICS and not Path(name_or_path).exists():
        return _classic(str(name_or_path), device, side)
    if str(name_or_path) in SOLVERS and not Path(name_or_path).exists():
        return Predictor(solver(str(name_or_path)), _plain(str(name_or_path)), device="cpu", precision="fp32")
    session = session_of(name_or_path) if isinstance(name_or_path, str | Path) else None
    if session is not None:
        return _exported(session, device, precision, side)
    path = locate(name_or_path)
    if side is not None:
        read_info(path).preprocess.at_long_side(side)
    model, info = load_model(path)
    if side is not None:
        info = replace(info, preprocess=info.preprocess.at_long_side(side))
    kind = PromptPredictor if isinstance(model, Promptable) else Predictor
    predictor: Predictor[Any] = kind(
        model, info, device=device, precision=precision, classifier=load_classifier(path), in_place=True
    )
    if precision == "auto" and predictor.device.type == "cpu" and predictor.dtype == torch.bfloat16:
        predictor.engine.dtype = fastest(predictor.model, info)
    return predictor


def _exported(session: Session, device: str, precision: str, side: int | None) -> Predictor[Any]:
    """A model that another runtime runs, in the precision that it was exported in."""
    from eachmask.runtimes.exported import load_exported

    if device not in ("auto", "cpu"):
        raise UserError(f"{session.path.name} is run on the CPU, not on {device}: use the model itself there")
    if precision not in ("auto", own := session.header().precision):
        raise UserError(f"{session.path.name} computes in {own}, not in {precision}: export the model again")
    model, info, classifier = load_exported(session)
    if side is not None:
        info = replace(info, preprocess=info.preprocess.at_long_side(side))
    kind = PromptPredictor if isinstance(model, Promptable) else Predictor
    return kind(model, info, device="cpu", precision="fp32", optimize=False, classifier=classifier)


def _classic(name: str, device: str, side: int | None) -> PromptPredictor:
    """What answers prompts without weights, at the images' own size."""
    from eachmask.models.promptable.without_learning import classic

    config = {} if side is None else {"brush": {"max_side": side}}
    info = _plain(name, config)
    return PromptPredictor(classic(name, **config), info, device=device, precision="fp32", optimize=False)


def _plain(name: str, config: dict[str, Any] | None = None) -> ModelInfo:
    """Of what has no weights and sees images as they are."""
    from eachmask.structures import Category, Preprocess
    from eachmask.weights.header import ModelInfo

    plain = Preprocess(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), short_side=None, divisor=1)
    return ModelInfo(name, config or {}, plain, (Category(1, "object"),), name=name)
