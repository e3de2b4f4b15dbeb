"""Files that are no image that can be read, by their first bytes: what they are, and how to go on."""

from __future__ import annotations

from PIL import Image

HEAD = 352
"""Bytes that are looked at."""
_MICROSCOPE = "save it as OME-TIFF with the microscope's program, Fiji or bfconvert"
_RAW = "develop it into TIFF or JPEG"
_KINDS = (
    (0, b"version https://git-lfs", "a pointer of Git LFS in the image's place", "git lfs pull fetches the image"),
    (0, b"<!doctype html", "a web page, as servers send where there is no image", "fetch it again"),
    (0, b"<html", "a web page, as servers send where there is no image", "fetch it again"),
    (0, b"<svg", "a drawing (SVG)", "save it as PNG"),
    (0, b"%pdf", "a PDF", "save its pages as PNG"),
    (0, b"\xff\x0a", "a JPEG XL image", "save it as PNG or JPEG"),
    (0, b"\0\0\0\x0cjxl ", "a JPEG XL image", "save it as PNG or JPEG"),
    (0, b"v/1\x01", "an OpenEXR image", "save it as TIFF"),
    (0, b"#?radiance", "a Radiance HDR image", "save it as TIFF"),
    (0, b"\x93numpy", "an array of NumPy", "save it as TIFF, or hand the array over in Python"),
    (0, b"\x89hdf", "an HDF5 file", "save its images as TIFF"),
    (0, b"zisrawfile", "a CZI file of Zeiss", _MICROSCOPE),
    (0, b"\xda\xce\xbe\x0a", "an ND2 file of Nikon", _MICROSCOPE),
    (0, b"\x70\0\0\0", "a LIF file of Leica", _MICROSCOPE),
    (128, b"dicm", "a DICOM file", "save its slices as PNG or TIFF"),
    (344, b"n+1", "a NIfTI volume", "save its slices as PNG or TIFF"),
    (0, b"ii*\0\x10\0\0\0cr\x02", "a camera's raw file", _RAW),
    (4, b"ftypcrx", "a camera's raw file", _RAW),
    (0, b"fujifilmccd", "a camera's raw file", _RAW),
    (0, b"\x1f\x8b", "a compressed file", "unpack it (gunzip)"),
    (0, b"pk\x03\x04", "a ZIP archive", "unpack it"),
    (0, b"\x1aE\xdf\xa3".lower(), "a video", "eachmask track follows what is in it"),
    *((4, b"ftyp" + brand, "a video", "eachmask track follows what is in it") for brand in (b"isom", b"mp4", b"qt")),
)  # fmt: skip
"""Offset, bytes there in small letters, what it is, what to do."""
_IMAGES = (b"\x89PNG", b"\xff\xd8", b"BM", b"GIF8", b"II", b"MM", b"RIFF")
"""What begins so is an image, whatever comes later."""


def other_kind(head: bytes) -> str:
    """What to say of a file that begins so; "" where it may be an image.

    >>> other_kind(b"%PDF-1.7")
    'is a PDF, which is not read: save its pages as PNG'
    """
    small = head.lower()
    for offset, mark, what, remedy in _KINDS:
        if offset > 8 and head.startswith(_IMAGES):
            continue
        if small.startswith(mark, offset) and not ("JPEG XL" in what and ".jxl" in Image.registered_extensions()):
            return f"is {what}, which is not read: {remedy}"
    return ""
