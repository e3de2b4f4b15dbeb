"""Threads that wait for each other sleep soon, unless the environment says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from eachmask.accel.spinning import SETTINGS, SPIN_COUNT

COMMAND = """
import contextlib, eachmask.cli
with contextlib.suppress(SystemExit):
    eachmask.cli.main(["models", "--help"])
import torch
"""


def settings_of_a_command(code: str = COMMAND, **environment: str) -> str:
    """What OpenMP says of its settings, as a command has set them by the time torch is imported."""
    plain = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=plain | {"OMP_DISPLAY_ENV": "VERBOSE"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("torch has no GNU OpenMP here")
    return done.stderr


def test_a_command_sets_it_before_openmp_reads_it() -> None:
    assert f"GOMP_SPINCOUNT = '{SPIN_COUNT}'" in settings_of_a_command()


def test_what_the_environment_says_stays() -> None:
    assert "GOMP_SPINCOUNT = '77'" in settings_of_a_command(GOMP_SPINCOUNT="77")
    assert f"GOMP_SPINCOUNT = '{SPIN_COUNT}'" not in settings_of_a_command(OMP_WAIT_POLICY="active")


def test_it_can_be_turned_off() -> None:
    assert f"GOMP_SPINCOUNT = '{SPIN_COUNT}'" not in settings_of_a_command(EACHMASK_ACCEL_OFF="spinning")
