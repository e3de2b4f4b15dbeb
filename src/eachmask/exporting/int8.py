"""Eight-bit graphs: calibrated on annotated images, and kept only where hardly anything is lost on them.

Weights and activations of convolutions and matrix products become whole numbers of 8 bits; their ranges are the
smallest and largest values that the network has on the images (ONNX Runtime's static quantization).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from eachmask.runtimes.header import KEY, Header
from eachmask.runtimes.sessions import OnnxSession
from eachmask.structures import UserError

if TYPE_CHECKING:
    from eachmask.inference.predictor import ImageLike, Predictor

MAX_LOSS = 0.01
"""Of AP, PQ or mean IoU, as a fraction: what loses more is not written."""
MAX_IMAGES = 64
"""That the ranges are found on."""
MEASURES = ("ap", "pq", "miou")
LAYERS = ["Conv", "MatMul", "Gemm"]


def write_int8(plain: Path, target: Path, data: str | Path, images: Path | None) -> None:
    """Quantize an exported file.

    Args:
        plain: the file in float32.
        target: gets the graph; its header's scores say what both reach on the data, ``fp32_ap`` and ``int8_ap``.
        data, images: as :func:`eachmask.evaluate` takes them, of which the ``val`` part is used.

    Raises:
        UserError: more than :data:`MAX_LOSS` is lost, or the data have no measure for this.
    """
    from eachmask.evaluation.measure import evaluate
    from eachmask.evaluation.source import open_source
    from eachmask.inference.load import load

    header = OnnxSession(plain).header()

    def measured(file: Path) -> tuple[str, float]:
        values = evaluate(load(file), data, images=images, resamples=0, boundary=False, gallery=0).values()
        name = next((name for name in MEASURES if name in values), None)
        if name is None:
            raise UserError(f"int8 is measured by {', '.join(MEASURES)}, and {header.info.name} has none of them")
        return name, values[name]

    predictor = load(plain)
    samples = open_source(data, "val", images, None, lambda _: None, target=predictor.task.target).samples
    shown = (samples.path(number) for number in range(min(len(samples), MAX_IMAGES)))
    quantize(plain, target, network_inputs(predictor, shown))
    (name, before), (_, after) = measured(plain), measured(target)
    if not before - after <= MAX_LOSS:
        raise UserError(
            f"{header.info.name} loses {100 * (before - after):.1f} points of {name} in int8 ({100 * before:.1f} -> "
            f"{100 * after:.1f}), more than {100 * MAX_LOSS:g}: export it in fp32 or bf16"
        )
    scores = {f"fp32_{name}": round(before, 4), f"int8_{name}": round(after, 4)}
    info = replace(header.info, scores=header.info.scores | scores)
    _set_header(target, replace(header, info=info, precision="int8"))


def network_inputs(predictor: Predictor[Any], images: Iterable[ImageLike]) -> Iterator[NDArray[Any]]:
    """(1, 3, h, w) of each image, as the network sees it."""
    from eachmask.inference.preprocessing import reduced

    preprocess = predictor.info.preprocess
    for image in images:
        array = predictor.prepare(image)
        batch = predictor.engine.batch([reduced(array, preprocess)], [preprocess.limits(array)])
        height, width = batch.sizes[0]
        yield batch.tensor[:, :, :height, :width].contiguous().numpy()


def quantize(plain: Path, target: Path, batches: Iterator[NDArray[Any]]) -> None:
    """Write the eight-bit graph of an exported one, with ranges as the batches (1, 3, h, w) have them."""
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, Any] | None:
            batch = next(batches, None)
            return None if batch is None else {"images": batch}

    quantization.quantize_static(plain, target, Reader(), op_types_to_quantize=LAYERS, per_channel=True)
    _set_header(target, replace(OnnxSession(plain).header(), precision="int8"))


def _set_header(path: Path, header: Header) -> None:
    import onnx

    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, {KEY: header.to_json()})
    path.write_bytes(model.SerializeToString())
