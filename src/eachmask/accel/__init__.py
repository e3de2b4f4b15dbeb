"""Accel: what makes the same numbers faster on a CPU, or a command start sooner. Results stay the same up to rounding.

Each file acts by itself where it pays, and can be turned off by its name in the environment, several separated by
commas: ``EACHMASK_ACCEL_OFF=roi_cpu,malloc eachmask predict ...``

=============== ==================================================== ================================================
file            what it does                                         when
=============== ==================================================== ================================================
``depthwise``   gradients of depthwise kernels larger than 3x3, and  in training on the CPU (``depthwise_training``)
                in bfloat16 of those with a stride, by fast kernels
``kernels``     keeps oneDNN's kernels for more sizes of images      once a predictor on the CPU is made, unless the
                                                                     environment says how many
``lazy_dynamo`` imports torchvision and timm without torch's         with tested versions of torch, until somebody
                compiler: two seconds and 150 MB less                compiles
``malloc``      keeps freed memory for the next image instead of     once a predictor on the CPU is made, with glibc,
                handing it back to the system                        unless the environment sets malloc's thresholds
``roi_cpu``     RoIAlign and its gradient as sums of table rows      on channels-last maps on the CPU, float32, and in
                                                                     prediction bfloat16; not while tracing or compiling
``spinning``    threads that wait for each other sleep soon, so that in commands, with GNU OpenMP, unless the
                other work on the same CPUs does not stop them       environment says how threads wait
``winograd``    3x3 convolutions and their gradients with a quarter  in training on the CPU in float32, wide layers on
                of the multiplications                               large maps (``winograd_training`` says where)
=============== ==================================================== ================================================
"""

from __future__ import annotations

import os

from eachmask.structures.lazy import lazy_room

__getattr__, __dir__ = lazy_room(__name__, __path__)

SWITCH = "EACHMASK_ACCEL_OFF"
"""Environment variable: names of the files here that must not act."""


def is_on(name: str) -> bool:
    """Whether the file of that name may act."""
    return name not in (word.strip() for word in os.environ.get(SWITCH, "").split(","))
