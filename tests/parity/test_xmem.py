"""XMem against recorded numbers of the authors' code: networks apart, and four sessions on a clip."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from parity.prompted import extra, open_prompted

from eachmask.models.video.memory import Follower, MemoryConfig, padding
from eachmask.models.video.xmem import MEAN, STD, XMem, affinity, aggregate, similarity

SESSIONS = {
    "basic": MemoryConfig(every=2, top=30, long_term=False),
    "sparse_update": MemoryConfig(every=3, deep_every=2, top=7, long_term=False),
    "long": MemoryConfig(every=1, top=30, max_frames=4, min_frames=2, prototypes=16, max_long=40),
    "later_object": MemoryConfig(every=2, top=30, long_term=False),
}


@pytest.fixture(scope="module")
def fixture(shared) -> Any:
    return open_prompted(str(shared / "parity" / "xmem"))


@pytest.fixture(scope="module")
def network(fixture) -> XMem:
    return XMem.of({name: torch.from_numpy(np.asarray(value)) for name, value in fixture.weights().items()})


def near(fixture: Any, name: str, value: torch.Tensor) -> None:
    error, same = fixture.compare_raw(name, value.numpy())
    assert same and error < 1e-3, (name, error)


def test_networks(fixture, network):
    said = fixture.manifest["input"]
    size = said["height"], said["width"]
    frames = [np.asarray(extra().D.make_input(*size, said["seed"] + t)).reshape(1, 3, *size) for t in range(4)]
    seen = network.look(torch.from_numpy(np.concatenate(frames)).float())
    near(fixture, "plain.key", seen.key.transpose(0, 1)[None])
    near(fixture, "plain.shrinkage", seen.shrinkage.transpose(0, 1)[None])
    near(fixture, "plain.selection", seen.selection.transpose(0, 1)[None])
    for name, value in zip(("f16", "f8", "f4"), seen.maps, strict=True):
        near(fixture, f"plain.{name}", value[None])
    masks = torch.from_numpy(fixture.mask("plain.masks")).float()
    near(fixture, "plain.value.0", network.value(torch.from_numpy(frames[0]).float(), seen.maps[0][:1], masks)[None])
    key, shrinkage = seen.key[:3].transpose(0, 1).flatten(1), seen.shrinkage[:3].flatten()
    query, selection = seen.key[3].flatten(1), seen.selection[3].flatten(1)
    alike = similarity(key, shrinkage, query, selection)
    near(fixture, "plain.similarity", alike[None])
    near(fixture, "plain.similarity_no_selection", similarity(key, shrinkage, query, None)[None])
    near(fixture, "plain.similarity_no_shrinkage", similarity(key, None, query, selection)[None])
    near(fixture, "plain.affinity_top30", affinity(alike, 30)[None])
    found = aggregate(torch.from_numpy(fixture.arr("plain.aggregate.in")))
    assert fixture.compare_arr("plain.aggregate.prob", found.numpy()) < 1e-3
    for text, margins in fixture.scalar("padding").items():
        assert list(padding(tuple(int(v) for v in text.split("x")))) == margins


@pytest.mark.parametrize("name", list(SESSIONS))
def test_sessions(fixture, network, name):
    clip = fixture.manifest["input"]["clip"]
    frames = torch.from_numpy(extra().make_clip(clip["frames"], clip["height"], clip["width"], clip["seed"]))
    frames = (frames.permute(0, 3, 1, 2) / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    follower = Follower(network, SESSIONS[name])
    sizes = fixture.scalar(f"{name}.memory_sizes")
    for t, expected in enumerate(sizes):
        masks = torch.from_numpy(fixture.mask("video.first_masks")) if t == 0 else None
        later = name == "later_object" and t == 3
        if later:
            new = torch.from_numpy(fixture.mask("video.later_mask"))
            masks = torch.cat([torch.zeros(2, *new.shape[1:], dtype=torch.bool), new])
        found = follower.step(frames[t], masks, new=later, last=t == len(sizes) - 1)
        raw = f"{name}.frame{t}.prob"
        if raw in fixture.manifest["raw"]:
            near(fixture, raw, found)
        labels = found.argmax(0)
        pixels, iou = fixture.compare_mask(
            f"{name}.frame{t}.masks", np.stack([labels == k for k in range(1, len(found))])
        )
        assert iou > 0.99 or 0 <= pixels <= 20, (t, pixels, iou)
        work, long = follower.memory.work, follower.memory.long
        assert work is not None and len(work) == expected["work"]
        assert [value.shape[2] for value in work.values] == expected["groups"]
        assert (0 if long is None else len(long)) == expected.get("long", 0)
    assert follower.hidden is not None
    near(fixture, f"{name}.hidden", follower.hidden[None])
