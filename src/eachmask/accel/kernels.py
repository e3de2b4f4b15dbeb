"""How many compiled kernels oneDNN keeps (torch's convolutions on x86 and Arm CPUs; elsewhere nothing happens here).

Each layer needs one for every size of image. By default 1024 are kept, enough for eight sizes of a network of 130
layers: a folder of photographs has more, and then each image pays for its kernels anew, a third of its time
(``benchmarks/mixed_sizes.py``).
"""

from __future__ import annotations

import os

from eachmask.accel import is_on

KERNELS = 2048
"""Kept: as fast as with any more on 201 photographs of 14 sizes, each at two scales, without more memory."""
SETTINGS = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "DNNL_PRIMITIVE_CACHE_CAPACITY")


def keep_more_kernels() -> None:
    """From now on, keep :data:`KERNELS` in this process and its children.

    oneDNN reads the setting once, at its first kernel. What the environment says stays.
    """
    if is_on("kernels") and not any(name in os.environ for name in SETTINGS):
        os.environ[SETTINGS[0]] = str(KERNELS)
