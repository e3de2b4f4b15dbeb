"""What is asked of the C library, which is a spy here."""

from __future__ import annotations

import ctypes
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
