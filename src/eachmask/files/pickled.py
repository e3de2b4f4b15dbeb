"""Pickled arrays of other programs, read without running anything that a pickle says.

A pickle names functions to call, of any module. Here only numpy's arrays, dtypes and scalars, numbers, texts, lists and
dicts are understood, and even these are put together by the few lines below and not by what the file names: of any
other name the file is refused.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eachmask.structures import UserError

_PLAIN = "biufc?SU"
"""Kinds of elements that are bytes and no references."""


class _Type:
    """A dtype: its code and, from the state, its byte order."""

    def __init__(self, code: str, *_: Any) -> None:
        self.dtype = np.dtype(str(code))

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">", "=", "|") and self.dtype.kind in _PLAIN:
            self.dtype = self.dtype.newbyteorder(state[1])

    def array(self, data: bytes, shape: Any, order: str) -> NDArray[Any]:
        if self.dtype.kind not in _PLAIN:
            raise pickle.UnpicklingError(f"elements of type {self.dtype}")
        return np.frombuffer(data, self.dtype).reshape(tuple(int(n) for n in shape), order="F" if order == "F" else "C")


class _Array:
    """An array whose content the state brings; elements that are objects stay a list."""

    def __init__(self, *_: Any) -> None:
        self.value: Any = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, is_fortran, data = state
        self.value = data if isinstance(data, list) else kind.array(data, shape, "F" if is_fortran else "C")


def _scalar(kind: _Type, data: bytes) -> Any:
    return kind.array(data, (1,), "C")[0]


def _from_buffer(data: bytes, kind: _Type, shape: Any, order: str, *_: Any) -> NDArray[Any]:
    return kind.array(bytes(data), shape, order)


def _encode(text: str, coding: str = "latin1") -> bytes:
    return text.encode("latin1")


def _path(*parts: str) -> str:
    return "/".join(map(str, parts))


_NUMPY = {"multiarray._reconstruct": _Array, "multiarray.scalar": _scalar, "numeric._frombuffer": _from_buffer}
_KNOWN: dict[str, Any] = {
    "numpy.ndarray": _Array,
    "numpy.dtype": _Type,
    "_codecs.encode": _encode,
    **{f"numpy.{core}.{name}": what for core in ("core", "_core") for name, what in _NUMPY.items()},
    **{f"{m}.{kind}Path": _path for m in ("pathlib", "pathlib._local") for kind in ("Posix", "Windows")},
}
"""What a pickle may name, and what is called instead."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _KNOWN:
            raise pickle.UnpicklingError(f"it would run {module}.{name}")
        return _KNOWN[f"{module}.{name}"]


def read_pickled(path: Path) -> Any:
    """What ``numpy.save`` has written to ``path``: an array, or a dict of arrays, numbers and texts.

    Lists inside the dict are left as they are, unread.

    Raises:
        UserError: it cannot be read, is damaged, or names anything else than what numpy's arrays are made of.
    """
    try:
        file = io.BytesIO(path.read_bytes())
        version = np.lib.format.read_magic(file)
        read_header = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
        shape, is_fortran, dtype = read_header(file)
        if not dtype.hasobject:
            return np.frombuffer(file.read(), dtype).reshape(shape, order="F" if is_fortran else "C")
        value = _content(_Unpickler(file).load())
        value = value[0] if shape in ((), (1,)) and isinstance(value, list) and len(value) == 1 else value
        return {key: _content(item) for key, item in value.items()} if isinstance(value, dict) else value
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None
    except MemoryError:
        raise UserError(f"{path} needs more memory than there is") from None
    except Exception as error:  # a damaged pickle raises whatever its opcodes lead to
        detail = " ".join(str(error).split())[:120]
        raise UserError(f"{path} is no file of arrays that can be read ({detail})") from None


def read_pickle(path: Path) -> Any:
    """What ``pickle.dump`` has written to ``path``: dicts of arrays, numbers and texts, as Detectron2 keeps weights.

    Raises:
        UserError: it cannot be read, is damaged, or names anything else than what numpy's arrays are made of.
    """
    try:
        with open(path, "rb") as file:
            return _contents(_Unpickler(file, encoding="latin1").load())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None
    except Exception as error:  # a damaged pickle raises whatever its opcodes lead to
        detail = " ".join(str(error).split())[:120]
        raise UserError(f"{path} is no file of arrays that can be read ({detail})") from None


def _contents(value: Any) -> Any:
    """The same in dicts of dicts."""
    if isinstance(value, dict):
        return {key: _contents(item) for key, item in value.items()}
    return _content(value)


def _content(value: Any) -> Any:
    return value.value if isinstance(value, _Array) else value
