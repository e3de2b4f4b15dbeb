"""Keys, bounds and names of a server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from eachmask.cli.serve import ServeOptions, settings_of
from eachmask.server.settings import Limits, ServerSettings, is_loopback, read_keys
from eachmask.structures import UserError


def test_settings_reach_worker_processes_whole() -> None:
    settings = ServerSettings(("a", "b"), ("k" * 20,), hosts=("here",), limits=Limits(queue=3))
    assert ServerSettings.from_json(settings.to_json()) == settings


def test_keys_are_not_printed() -> None:
    assert "secret" not in repr(ServerSettings(("a",), ("secret",)))


def test_keys_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    path.write_text("# of the laboratory\n0123456789abcdef\n\n  fedcba9876543210  \n")
    assert read_keys(path) == ("0123456789abcdef", "fedcba9876543210")
    for content, words in [("# none\n", "holds no key"), ("0123456789abcdef\nshort\n", "line 2 has fewer than 16")]:
        path.write_text(content)
        with pytest.raises(UserError, match=words):
            read_keys(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_keys(tmp_path / "none.txt")


def test_this_machine_alone_unless_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EACHMASK_KEY", raising=False)
    options = ServeOptions(models=("nuclei",))
    own = settings_of(options)
    assert options.host == "127.0.0.1" and "localhost" in own.hosts
    assert len(own.keys[0]) >= 32 and own.keys != settings_of(options).keys
    assert settings_of(replace(options, host="0.0.0.0")).hosts == ()
    assert settings_of(replace(options, host="0.0.0.0", names=("masks.example",))).hosts == ("masks.example",)
    assert [is_loopback(host) for host in ("127.0.0.2", "::1", "0.0.0.0", "example.org")] == [True, True, False, False]


@pytest.mark.parametrize("wish", [{"workers": 0}, {"queue": 0}, {"max_mb": 0.0}, {"seconds": -1.0}])
def test_bounds_must_make_sense(wish: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"--{next(iter(wish)).replace('_', '-')}"):
        settings_of(replace(ServeOptions(models=("nuclei",)), **wish))
