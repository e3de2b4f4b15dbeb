"""exporting: from a model to a file that other runtimes run, compared with the model before it is kept."""

from __future__ import annotations

import io
import signal
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.export import Dim

from eachmask.exporting.answers import answer_graphs
from eachmask.exporting.compare import check_equal
from eachmask.exporting.graph import OPSET, Traced, first_line, for_any_size, is_dynamic, prepare, tracing
from eachmask.exporting.int8 import write_int8
from eachmask.files.atomic import put_in_place, replacing_from_folder
from eachmask.runtimes.header import KEY, AnswerGraph, Header
from eachmask.runtimes.sessions import HEADER_FILE
from eachmask.structures import UserError
from eachmask.weights.fetch import locate
from eachmask.weights.file import CLASSIFIER, load_classifier, load_model
from eachmask.weights.header import ModelInfo

Target = Literal["onnx", "openvino", "torch-export"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torch-export": ".pt2"}
ALLOWED: dict[str, tuple[str, ...]] = {
    "onnx": ("fp32", "int8"),
    "openvino": ("fp32", "bf16", "fp16"),
    "torch-export": ("fp32",),
}
"""Target -> the precisions that its runtime has on CPUs."""
MAX_SECONDS = 120.0
"""CPU time for torch's own export, which can lose itself in sizes as symbols: padding that depends on them, as that of
the networks that came from TensorFlow, is an expression that grows with every layer."""


def export(
    model: str | Path,
    out: str | Path | None = None,
    *,
    to: Target = "onnx",
    precision: Precision = "fp32",
    size: tuple[int, int] | None = None,
    data: str | Path | None = None,
    images: Path | None = None,
) -> Path:
    """Write a model as a file that ONNX Runtime, OpenVINO or torch alone runs; ``eachmask.load`` takes it.

    Args:
        model: a name, a model file or the folder of a run.
        out: the file; by default NAME.onnx, NAME.xml with a NAME.bin, or NAME.pt2, in the current folder.
        precision: openvino has bf16, which computes in it, and fp16, which stores weights in it; onnx has int8.
        size: (height, width) px that every image is stretched to; by default the file takes images of any size.
        data, images: for int8, annotated images as :func:`eachmask.evaluate` takes them: the ranges of values are
            found on them, and what is lost is measured, see :mod:`eachmask.exporting.int8`.

    Returns:
        the file.

    Raises:
        UserError: no such model, one that cannot be exported, a runtime that is not installed, or a file that does
            not give what the model gives, or in int8 much less.

    >>> export("nuclei", to="tensorrt")
    Traceback (most recent call last):
        ...
    eachmask.structures.errors.UserError: a model can be exported to onnx, openvino, torch-export, not to 'tensorrt'
    """
    if to not in get_args(Target):
        raise UserError(f"a model can be exported to {', '.join(get_args(Target))}, not to {to!r}")
    if precision not in ALLOWED[to]:
        raise UserError(f"the runtime of {to} computes in {' or '.join(ALLOWED[to])} on CPUs, not in {precision}")
    if (precision == "int8") != (data is not None):
        raise UserError("int8 alone is calibrated and measured on annotated images: give --data and --precision int8")
    path = locate(model)
    network, info = load_model(path)
    info = replace(info, name=info.name or info.variant)
    if size is not None:
        preprocess = replace(info.preprocess, fixed_size=size, short_side=None, long_side=None)
        info = replace(info, preprocess=preprocess, scales=())
    target = Path(out) if out is not None else Path(info.name + SUFFIXES[to])
    if target.suffix != SUFFIXES[to]:
        raise UserError(f"a file for {to} ends in {SUFFIXES[to]}: call it {target.with_suffix(SUFFIXES[to]).name}")
    classifier = load_classifier(path)
    extra = {} if classifier is None else {CLASSIFIER + n: t for n, t in classifier.state_dict().items()}
    if data is None:
        write_exported(target, network, info, to, precision, extra)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder, replacing_from_folder(target) as part:
            plain = Path(folder) / target.name
            write_exported(plain, network, info, to, "fp32", extra)
            write_int8(plain, part, data, images)
    return target


def write_exported(
    target: Path, model: nn.Module, info: ModelInfo, to: Target, precision: str, extra: dict[str, Any]
) -> None:
    """Write the file and compare it with the model; the file is complete and right, or absent.

    Args:
        extra: weights that travel with it.
    """
    traced = prepare(model, info)
    dynamic = is_dynamic(info.preprocess)
    answers: dict[str, AnswerGraph] = {}
    there: set[str] = set()
    if traced.graph.verb == "encode" and to != "torch-export":  # torch runs the model's own code anyway
        answers, there = answer_graphs(model, info)
    weights = {name: t.contiguous() for name, t in (traced.weights | extra).items() if name not in there}
    batched = dynamic and to != "torch-export"  # which takes a batch of one for the only one there is
    header = Header(info, traced.graph.verb, traced.description, precision, dynamic, batched, weights, answers)
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing_from_folder(target) as part:
        _write(part, traced, header, to)
        try:
            check_equal(part, model, header)
        except UserError:
            if not batched:
                raise
            header = replace(header, batched=False)  # a trace may freeze the batch alone
            _write(part, traced, header, to)
            check_equal(part, model, header)
        if part.with_suffix(".bin").is_file():  # OpenVINO's weights
            target.unlink(missing_ok=True)  # an earlier graph must never be seen with these
            put_in_place(part.with_suffix(".bin"), target.with_suffix(".bin"))


def _write(path: Path, traced: Traced, header: Header, to: Target) -> None:
    try:
        WRITERS[to](path, traced, header)
    except ImportError as error:
        extra_name = "openvino" if error.name == "openvino" else "onnx"
        raise UserError(f"{error.name} is not installed: pip install eachmask[{extra_name}]") from error
    except Exception as error:  # whatever a converter stumbles over
        about = f"{header.info.name} cannot be exported to {to}{for_any_size(header.info.preprocess)}"
        raise UserError(f"{about}: {first_line(error)}") from error


def _onnx_bytes(traced: Traced, header: Header) -> bytes:
    """The graph, with the header in its metadata."""
    import onnx

    buffer: Any = io.BytesIO()
    axes = {"images": {0: "batch", 2: "height", 3: "width"}} if header.dynamic else {}
    with tracing(header.info.preprocess):
        torch._C._jit_set_onnx_log_enabled(False)  # on failure it would print all of the graph
        torch.onnx.export(
            traced.graph, (traced.example,), buffer, dynamo=False, opset_version=OPSET,
            input_names=["images"], dynamic_axes=axes,
        )  # fmt: skip
    model = onnx.load_from_string(buffer.getvalue())
    onnx.helper.set_model_props(model, {KEY: header.to_json()})
    written: bytes = model.SerializeToString()
    return written


def _to_onnx(path: Path, traced: Traced, header: Header) -> None:
    path.write_bytes(_onnx_bytes(traced, header))


def _to_openvino(path: Path, traced: Traced, header: Header) -> None:
    import openvino

    model = openvino.Core().read_model(_onnx_bytes(traced, header))
    model.set_rt_info(header.to_json(), KEY)
    openvino.save_model(model, str(path), compress_to_fp16=header.precision == "fp16")


def _to_torch(path: Path, traced: Traced, header: Header) -> None:
    any_size = {2: Dim.AUTO, 3: Dim.AUTO} if header.dynamic else {}
    with torch.no_grad(), warnings.catch_warnings(), _cpu_time(MAX_SECONDS):
        warnings.simplefilter("ignore")
        program = torch.export.export(
            traced.graph, (traced.example,), dynamic_shapes={"images": any_size}, strict=False
        )
    torch.export.save(program, path, extra_files={HEADER_FILE: header.to_json()})


@contextmanager
def _cpu_time(seconds: float) -> Iterator[None]:
    """A limit, where the system has such alarms: in the main thread of POSIX.

    Raises:
        TimeoutError: it is over.
    """
    if not hasattr(signal, "SIGVTALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def over(*_: object) -> None:
        raise TimeoutError(f"torch is not done after {seconds:g} s of computing")

    before = signal.signal(signal.SIGVTALRM, over)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, 1.0)  # and again, should somebody catch it
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


WRITERS: dict[str, Callable[[Path, Traced, Header], None]] = {
    "onnx": _to_onnx,
    "openvino": _to_openvino,
    "torch-export": _to_torch,
}
