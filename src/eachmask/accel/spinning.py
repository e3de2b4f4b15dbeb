"""How long threads wait for each other awake (GNU OpenMP, which torch brings on Linux; elsewhere nothing happens here).

Between two parallel regions a thread spins, by default for milliseconds. That is free where a CPU is idle. Beside other
work it keeps the very thread from running that all the others wait for: an image then takes twice as long and more
(``benchmarks/busy.py``).

Once there are more threads than CPUs, all of them sleep nearly at once, whatever the setting, and each of the hundreds
of layers waits for the system to wake them. Every Python thread in which torch computes has such threads of its own,
until it ends. So one thread of a process computes, and reading, writing and answering leave torch alone
(``benchmarks/folder.py``).
"""

from __future__ import annotations

import os
import sys

from eachmask.accel import is_on

SPIN_COUNT = 10000
"""Rounds before a thread sleeps, a little longer than a layer takes to begin; GNU OpenMP's own are thirty times as many
and more."""

SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def sleep_soon() -> None:
    """Let this process's threads, and those of its children, sleep after :data:`SPIN_COUNT` rounds.

    OpenMP reads the setting once, as torch is imported: afterwards there is nothing to be done. Where the environment
    says how to wait, that stays.
    """
    if is_on("spinning") and "torch" not in sys.modules and not any(name in os.environ for name in SETTINGS):
        os.environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
