"""Runtimes behind one interface: a graph that is called with a tensor and gives tensors. One class per runtime."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from eachmask.runtimes.header import KEY, Header
from eachmask.structures import UserError

HEADER_FILE = "eachmask.json"
"""Within a ``.pt2`` archive."""


class Session:
    """A graph in a file, opened when it is first run: what travels to other processes is its path.

    Raises:
        UserError: there is no such file, or the runtime is not installed.
    """

    suffix: ClassVar[str]
    extra: ClassVar[str]
    """What to install for it, as in ``pip install eachmask[extra]``."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"the model file {self.path} does not exist")
        self._opened: Any = None

    def run(self, images: Tensor) -> list[Any]:
        """(B, 3, h, w) float32 normalized, not padded -> the graph's outputs."""
        raise NotImplementedError

    def opened_graph(self, graph: bytes) -> Callable[[Sequence[Tensor]], list[Any]]:
        """Another ONNX graph of the same file, opened: its inputs -> its outputs.

        Raises:
            UserError: this runtime reads none.
        """
        raise UserError(f"{self.path} holds a graph that its runtime cannot read: export the model again")

    def text(self) -> str | None:
        """The header's text."""
        raise NotImplementedError

    def header(self) -> Header:
        """What the file says about itself.

        Raises:
            UserError: nothing that can be used.
        """
        return Header.from_json(self.text(), self.path)

    def digest(self) -> bytes:
        """SHA-256 of all that the graph is made of."""
        return hashlib.sha256(self.path.read_bytes()).digest()

    @property
    def opened(self) -> Any:
        """The runtime's own object."""
        if self._opened is None:
            try:
                self._opened = self.open()
            except ImportError as error:
                raise UserError(
                    f"{self.path.name} needs {error.name}, which is not installed: pip install eachmask[{self.extra}]"
                ) from error
            except (RuntimeError, ValueError, OSError) as error:
                line = str(error).strip().split("\n")[0]
                raise UserError(f"{self.path} cannot be opened ({line}): export the model again") from error
        return self._opened

    def open(self) -> Any:
        """Read the file."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}


class OnnxSession(Session):
    """ONNX Runtime."""

    suffix, extra = ".onnx", "onnx"

    def open(self) -> Any:
        return self._inference(str(self.path))

    def opened_graph(self, graph: bytes) -> Callable[[Sequence[Tensor]], list[Any]]:
        session = self._inference(graph)
        names = [one.name for one in session.get_inputs()]

        def run(tensors: Sequence[Tensor]) -> list[Any]:
            given = {name: x.contiguous().numpy() for name, x in zip(names, tensors, strict=True)}
            return [torch.from_numpy(array) for array in session.run(None, given)]

        return run

    def _inference(self, graph: str | bytes) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        # Threads that wait awake take the time of all others on a busy machine.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its own exceptions derive from nothing narrower
            raise ValueError(str(error)) from error

    def text(self) -> str | None:
        found: str | None = self.opened.get_modelmeta().custom_metadata_map.get(KEY)
        return found

    def run(self, images: Tensor) -> list[Any]:
        outputs = self.opened.run(None, {"images": images.contiguous().numpy()})
        return [torch.from_numpy(array) for array in outputs]


class OpenVinoSession(Session):
    """OpenVINO; beside the ``.xml`` lies a ``.bin`` of the same name."""

    suffix, extra = ".xml", "openvino"

    def open(self) -> Any:
        import openvino

        core = openvino.Core()
        model = core.read_model(str(self.path))
        self._text = str(model.get_rt_info(KEY).value) if model.has_rt_info(KEY) else None
        bf16 = self._text is not None and Header.from_json(self._text, self.path).precision == "bf16"
        return core.compile_model(model, "CPU", _settings("bf16" if bf16 else "f32"))

    def opened_graph(self, graph: bytes) -> Callable[[Sequence[Tensor]], list[Any]]:
        import openvino

        core = openvino.Core()
        compiled = core.compile_model(core.read_model(graph), "CPU", _settings("f32"))

        def run(tensors: Sequence[Tensor]) -> list[Any]:
            outputs = compiled([x.contiguous().numpy() for x in tensors])
            return [torch.from_numpy(outputs[i].copy()) for i in range(len(compiled.outputs))]

        return run

    def text(self) -> str | None:
        _ = self.opened
        return self._text

    def digest(self) -> bytes:
        weights = self.path.with_suffix(".bin")
        return hashlib.sha256(super().digest() + (weights.read_bytes() if weights.is_file() else b"")).digest()

    def run(self, images: Tensor) -> list[Any]:
        outputs = self.opened(images.contiguous().numpy())
        return [torch.from_numpy(outputs[i].copy()) for i in range(len(self.opened.outputs))]


def _settings(precision: str) -> dict[str, Any]:
    """Of OpenVINO's plugin for CPUs."""
    return {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": precision}


class TorchSession(Session):
    """torch alone, without the model's code: a program of :func:`torch.export.save`."""

    suffix = ".pt2"

    def open(self) -> Any:
        _refuse_pickles(self.path)
        texts = {HEADER_FILE: ""}
        with _weights_only():
            program = torch.export.load(self.path, extra_files=texts)
        self._text = texts[HEADER_FILE]
        return program.module()

    def text(self) -> str | None:
        _ = self.opened
        return self._text

    @torch.inference_mode()
    def run(self, images: Tensor) -> list[Any]:
        return list(self.opened(images.contiguous()))


def _refuse_pickles(path: Path) -> None:
    """No pickle is ever executed: weights and constants of ours are plain numbers.

    Raises:
        ValueError: there is something else among them, or the file is no archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(("_weights_config.json", "_constants_config.json")):
                    entries = json.loads(archive.read(name))["config"].values()
                    plain = all(
                        e["path_name"].startswith(("weight_", "tensor_")) and not e["use_pickle"] for e in entries
                    )
                    if not plain:
                        raise ValueError("it holds pickled objects")
                elif name.endswith(".pt") and ("/weights/" in name or "/constants/" in name):
                    raise ValueError("it holds pickled objects")
    except (zipfile.BadZipFile, KeyError, TypeError, AttributeError) as error:
        raise ValueError("it is damaged, or no program of torch.export") from error


@contextmanager
def _weights_only() -> Iterator[None]:
    """While this is entered, torch reads tensors from its files and nothing else."""
    before = os.environ.get(_WEIGHTS_ONLY)
    os.environ[_WEIGHTS_ONLY] = "1"
    try:
        yield
    finally:
        del os.environ[_WEIGHTS_ONLY]
        if before is not None:
            os.environ[_WEIGHTS_ONLY] = before


_WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
SESSIONS: tuple[type[Session], ...] = (OnnxSession, OpenVinoSession, TorchSession)


def session_of(path: str | Path) -> Session | None:
    """The graph in a file, by its suffix; None where it is another kind of file."""
    kinds = [kind for kind in SESSIONS if kind.suffix == Path(path).suffix]
    return kinds[0](path) if kinds else None
