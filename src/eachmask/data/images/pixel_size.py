"""How large a pixel is, as microscopes write it: OME-TIFF and ImageJ."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from eachmask.data.images.read import is_tiff
from eachmask.structures import UserError

MICROMETERS = {"nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "mm": 1e3, "cm": 1e4}
"""Of one unit, by its name; ImageJ escapes the first letter of µm as ``\\u00B5``."""
_OME = re.compile(r"PhysicalSizeX(Unit)?=\"([^\"]*)\"")


def pixel_size(path: Path) -> float | None:
    """Width of a pixel in micrometers; None where the file does not say, or is no TIFF.

    OME-XML says ``PhysicalSizeX`` (µm if no unit is named); ImageJ says pixels per unit in ``XResolution``.
    """
    try:
        return _read(path, path.stat().st_mtime_ns)
    except OSError:
        return None


@lru_cache(maxsize=16)
def _read(path: Path, modified: int) -> float | None:
    """Once for all pages of a file: its description grows with their number."""
    import tifffile

    try:
        if not is_tiff(path):
            return None
        with tifffile.TiffFile(path) as tiff:
            if tiff.ome_metadata is not None:
                said = {unit: value for unit, value in _OME.findall(tiff.ome_metadata)}
                return _micrometers(float(said[""]), said.get("Unit", "µm"))
            unit = (tiff.imagej_metadata or {}).get("unit")
            pixels, units = tiff.pages.first.tags["XResolution"].value
            return _micrometers(units / pixels, str(unit).replace("\\u00B5", "µ")) if unit else None
    except (UserError, OSError, KeyError, ValueError, ZeroDivisionError, tifffile.TiffFileError):
        return None


def _micrometers(value: float, unit: str) -> float | None:
    factor = MICROMETERS.get(unit)
    return value * factor if factor and value > 0 else None
