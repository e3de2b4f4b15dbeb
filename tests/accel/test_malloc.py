"""What is asked of the C library, which is a spy here but for the last test."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from eachmask import accel
from eachmask.accel import malloc


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    asked: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda *what: asked.append(what), malloc_trim=lambda pad: asked.append((0, pad)))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    malloc.keep_freed_memory.cache_clear()
    yield asked
    malloc.keep_freed_memory.cache_clear()


def test_freed_memory_is_kept_up_to_a_limit(asked):
    malloc.keep_freed_memory()
    malloc.keep_freed_memory()
    assert asked == [(-3, 64 << 20), (-1, 256 << 20)]


@pytest.mark.parametrize(
    ("name", "value"),
    [("MALLOC_TRIM_THRESHOLD_", "1"), ("MALLOC_MMAP_THRESHOLD_", "1"), ("GLIBC_TUNABLES", "glibc.malloc.arena_max=1")],
)
def test_the_users_own_choice_stays(asked, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    malloc.keep_freed_memory()
    assert not asked


def test_the_switch_turns_it_off(asked, monkeypatch):
    monkeypatch.setenv(accel.SWITCH, "lazy_dynamo, malloc")
    malloc.keep_freed_memory()
    assert not asked


@pytest.mark.parametrize("error", [OSError, TypeError])
def test_other_systems_are_left_alone(asked, monkeypatch, error):
    def absent(name: None) -> None:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", absent)
    malloc.keep_freed_memory()
    malloc.give_back_freed_memory()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())  # a C library without these
    malloc.keep_freed_memory.cache_clear()
    malloc.keep_freed_memory()
    malloc.give_back_freed_memory()
    assert not asked


HELD = """
import ctypes
from pathlib import Path
from eachmask.accel.malloc import give_back_freed_memory, keep_freed_memory, limit_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def free(megabytes):
    pieces = [ctypes.create_string_buffer(b"x" * 1_000_000) for _ in range(megabytes)]
    return pieces[9::10]  # a piece in use lies above most that are free, as after a batch of images

keep_freed_memory()
give_back_freed_memory()
"""
GLIBC = tuple(int(part) for part in platform.libc_ver()[1].split(".")) if platform.libc_ver()[0] == "glibc" else ()
needs_glibc = pytest.mark.skipif(GLIBC < (2, 33), reason="the C library is not glibc 2.33 or newer")


def said_after(code: str) -> str:
    return subprocess.run([sys.executable, "-c", HELD + code], capture_output=True, text=True, check=True).stdout


@needs_glibc
def test_memory_between_what_is_in_use_goes_back_too():
    code = "pins = free(100); before = resident(); give_back_freed_memory(); print(before - resident())"
    assert int(said_after(code)) > 60e6


@needs_glibc
@pytest.mark.parametrize(("megabytes", "given"), [(400, False), (700, True)])
def test_between_images_no_more_than_the_limit_stays(megabytes, given):
    code = f"pins = free({megabytes}); before = resident(); limit_freed_memory(); print(before - resident())"
    assert (int(said_after(code)) > 250e6) == given
