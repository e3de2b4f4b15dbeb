"""What a model's header alone shows to be wrong with a call: said before weights are loaded, or downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eachmask.batch.options import BatchOptions
    from eachmask.models.protocol import Network
    from eachmask.weights.file import ModelInfo


def header_of(model: str) -> ModelInfo | None:
    """What a model's header says; None: it has none, as it has not learned, or lies on a hub.

    Raises:
        UserError: there is no such model, or no readable file at the path.
    """
    from eachmask.cli.show import find_info
    from eachmask.models.matting.solvers import SOLVERS
    from eachmask.models.promptable.without_learning import CLASSICS

    if model.startswith("hf:") or (model in (*CLASSICS, *SOLVERS) and not Path(model).exists()):
        return None
    return find_info(model)


def class_of(model: str) -> type[Network[Any, Any, Any]] | None:
    """The class of a model's network, which says what it is for; None: it lies on a hub.

    Raises:
        UserError: there is no such model, or no readable file at the path.
    """
    from eachmask.models import model_class
    from eachmask.models.matting.solvers import SOLVERS, TrimapSolver
    from eachmask.models.promptable.without_learning import CLASSICS, Classic

    info = header_of(model)
    if info is not None:
        return model_class(info.variant)
    return {**dict.fromkeys(CLASSICS, Classic), **dict.fromkeys(SOLVERS, TrimapSolver)}.get(model)


def check_before_loading(
    model: str,
    options: BatchOptions,
    *,
    side: int | None = None,
    diameter: float | None = None,
    scales: Sequence[float] = (),
    flip: bool = False,
) -> None:
    """Refuse options that the model cannot follow; what has no header is checked when it is there.

    Args:
        model: a name or a path.
        side, scales, flip: as of `eachmask predict`.
        diameter: of the objects, px.

    Raises:
        UserError: an option makes no sense for this model, or there is no such model.
    """
    from eachmask.batch.options import with_names
    from eachmask.inference.arguments import check_diameter, check_suppression, tile_side
    from eachmask.inference.matting import check_alone
    from eachmask.inference.several_looks import check_looks
    from eachmask.models import model_class
    from eachmask.weights.file import categories_of

    info = header_of(model)
    if info is None:
        return
    network = model_class(info.variant)
    check_alone(network, info.name or info.variant)
    with_names(options, categories_of(info), network.task.outputs)
    tile_side(info, network.task, options.tile, options.overlap, options.stride)
    check_suppression(network, info, options.decode)
    if scales or flip:
        check_looks(network, scales or (1.0,), info.preprocess)
    if side is not None:
        info.preprocess.at_long_side(side)
    if diameter is not None:
        check_diameter(info, diameter)
