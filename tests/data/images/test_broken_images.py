"""Files that were cut off or damaged: one sentence that names the file, or the very pixels, never anything else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from eachmask.data.images.read import num_pages, read_image
from eachmask.structures import UserError

RGB = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (24, 31, 3)).astype(np.uint8), (0, 0), 2)
OFFSETS = 24
"""Places at which each file is cut, and as many at which a byte is changed."""


def _pillow(**options: object) -> Callable[[Path], object]:
    return lambda path: Image.fromarray(RGB).save(path, **options)


def _tiff(**options: object) -> Callable[[Path], object]:
    return lambda path: tifffile.imwrite(path, np.tile(RGB, (2, 2, 1)), photometric="rgb", **options)


WRITERS: dict[str, Callable[[Path], object]] = {
    "plain.png": _pillow(),
    "deep.png": lambda path: cv2.imwrite(str(path), RGB.astype(np.uint16) * 200),
    "plain.jpg": _pillow(),
    "progressive.jpg": _pillow(progressive=True),
    "lossy.webp": _pillow(),
    "lossless.webp": _pillow(lossless=True),
    "plain.bmp": _pillow(),
    "plain.gif": _pillow(),
    "plain.tif": _tiff(),
    "zlib.tif": _tiff(compression="zlib"),
    "tiled.tif": _tiff(compression="zlib", tile=(16, 16)),
    "big.tif": _tiff(bigtiff=True),
    "lzw.tif": lambda path: cv2.imwrite(str(path), RGB),
    "packbits.tif": _pillow(compression="packbits"),
    "pages.tif": lambda path: tifffile.imwrite(path, np.stack([RGB[..., 0]] * 3)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", WRITERS)
def test_a_truncated_file_is_named(tmp_path: Path, name: str) -> None:
    whole = tmp_path / name
    WRITERS[name](whole)
    content, pixels, refused = whole.read_bytes(), read_image(whole), 0
    cut = tmp_path / f"cut{whole.suffix}"
    for length in np.linspace(0, len(content) - 1, OFFSETS).astype(int).tolist():
        cut.write_bytes(content[:length])
        assert num_pages(cut) >= 1
        try:
            np.testing.assert_array_equal(read_image(cut), pixels, err_msg=f"{length} of {len(content)} bytes")
        except UserError as error:
            assert str(cut) in str(error)
            refused += 1
    assert refused >= OFFSETS - 2, "only what comes after the last pixel may be missing"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", WRITERS)
def test_a_changed_byte_never_raises_anything_else(tmp_path: Path, name: str) -> None:
    whole = tmp_path / name
    WRITERS[name](whole)
    rng = np.random.default_rng(3)
    content, changed = whole.read_bytes(), tmp_path / f"changed{whole.suffix}"
    head = rng.integers(0, min(120, len(content)), OFFSETS // 2)  # headers are where the damage is worst
    for place in [*head.tolist(), *rng.integers(0, len(content), OFFSETS // 2).tolist()]:
        damaged = bytearray(content)
        damaged[place] ^= int(rng.integers(1, 256))
        changed.write_bytes(damaged)
        assert num_pages(changed) >= 1
        try:
            image = read_image(changed)
            assert image.ndim == 3 and image.shape[2] == 3
        except UserError as error:
            assert str(changed) in str(error)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jxl", b"\xff\x0a" + bytes(60), "a JPEG XL image"),
        ("b.jxl", b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(60), "a JPEG XL image"),
        ("a.png", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        ("a.jpg", b"<!DOCTYPE html><html>404</html>", "a web page"),
        ("a.pdf", b"%PDF-1.4\n", "a PDF"),
        ("a.dcm", bytes(128) + b"DICM" + bytes(50), "a DICOM file"),
        ("a.czi", b"ZISRAWFILE" + bytes(50), "a CZI file of Zeiss"),
        ("a.nd2", b"\xda\xce\xbe\x0a" + bytes(50), "an ND2 file of Nikon"),
        ("a.cr2", b"II*\0\x10\0\0\0CR\x02\0" + bytes(60), "a camera's raw file"),
        ("a.h5", b"\x89HDF\r\n\x1a\n" + bytes(60), "an HDF5 file"),
        ("a.npy", b"\x93NUMPY\x01\0" + bytes(60), "an array of NumPy"),
        ("a.mp4", b"\0\0\0\x18ftypmp42" + bytes(60), "eachmask track"),
        ("a.nii.gz", b"\x1f\x8b\x08" + bytes(60), "unpack it"),
    ],
)
def test_what_is_no_image_is_named_by_its_kind(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_image(tmp_path / name)


def test_an_image_stays_one_whatever_lies_in_its_middle(tmp_path: Path) -> None:
    pixels = np.zeros((30, 40), np.uint8)
    pixels.reshape(-1)[:400] = np.frombuffer((b"CR\2" + b"DICM" + b"n+1\0") * 50, np.uint8)[:400]
    for shift in range(12):  # wherever the pixels begin, one of these has the words where others have them
        Image.fromarray(np.roll(pixels, shift)).save(tmp_path / "b.bmp")
        tifffile.imwrite(tmp_path / "b.tif", np.roll(pixels, shift))
        assert read_image(tmp_path / "b.bmp").shape == read_image(tmp_path / "b.tif").shape == (30, 40, 3)
