"""Tensors in one .safetensors file that is there whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from eachmask.files.atomic import replacing_from_folder


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], folder: Path | None = None
) -> None:
    """Write them.

    Args:
        tensors: contiguous, on the CPU, no two of them in the same memory.
        folder: to write in until then; see :func:`~eachmask.files.atomic.replacing_from_folder`.

    Raises:
        OSError: it cannot be written; safetensors itself raises an error of its own where a disk is full.
    """
    with replacing_from_folder(path, folder) as part:
        try:
            save_file(dict(tensors), part, metadata=dict(metadata))
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            code = int(number[1]) if number else errno.EIO
            raise OSError(code, os.strerror(code), str(path)) from error


def checksum_of(tensor: Tensor, before: int = 0) -> int:
    """CRC-32 of the bytes of a contiguous tensor on the CPU, or of all whose checksum is ``before`` and then of it."""
    return zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, before)
