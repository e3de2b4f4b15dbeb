"""What recordings say of their Swin transformer, in our words."""

from __future__ import annotations

from typing import Any


def swin_settings(fixture: Any) -> dict[str, Any]:
    """Settings for :class:`eachmask.backbones.swin.Swin` from a recording's ``config``."""
    said = fixture.manifest["config"]
    said = said.get("backbone", said)
    names = {
        "width": ("embed", "embed_dim", "embed_dims"),
        "heads": ("heads", "num_heads"),
        "window": ("window", "window_size"),
    }
    found = {ours: next(said[name] for name in theirs if name in said) for ours, theirs in names.items()}
    return {**found, "depths": said["depths"]}
