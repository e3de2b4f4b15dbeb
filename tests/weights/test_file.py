from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from eachmask import models
from eachmask.structures import Category, Preprocess, UserError
from eachmask.weights.catalogue import bundled
from eachmask.weights.file import (
    CHECKSUMS,
    HEADER,
    ModelInfo,
    load_classifier,
    load_model,
    read_info,
    replace_info,
    save_model,
)

INFO = ModelInfo(
    variant="panoptic_deeplab_lite0",
    config={"sigma_min": 2.0},
    preprocess=Preprocess(short_side=None, long_side=None, contrast="percentile"),
    categories=(Category(7, "Zellkern ä", "cell", False, ("front", "back", "side"), ((0, 2), (1, 2))),),
    license="CC0-1.0",
    training={"steps": 3, "seed": 1},
    scores={"mask_ap": 0.5},
    decode={"score_threshold": 0.2},
    tile=512,
    name="small",
    card="# small\n\nA test.",
)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    network: nn.Module = models.variant(INFO.variant)(num_classes=1, sigma_min=2.0)
    return network.eval()


@pytest.fixture
def path(model: nn.Module, tmp_path: Path) -> Path:
    return save_model(tmp_path / "new" / "small.safetensors", model, INFO)


def test_header_round_trip(path: Path) -> None:
    assert read_info(path) == INFO


def test_weights_round_trip(model: nn.Module, path: Path) -> None:
    again, info = load_model(path)
    assert info == INFO and not again.training
    assert again.config.sigma_min == 2.0
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_file_is_as_readable_as_any_other(path: Path) -> None:
    other = path.with_name("other")
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode


def test_half_precision_is_half_the_size(model: nn.Module, path: Path, tmp_path: Path) -> None:
    half = save_model(tmp_path / "half.safetensors", model, INFO, half=True)
    assert half.stat().st_size < 0.55 * path.stat().st_size
    again, _ = load_model(half)
    for name, value in model.state_dict().items():
        assert again.state_dict()[name].dtype == value.dtype
        torch.testing.assert_close(again.state_dict()[name], value, rtol=1e-3, atol=1e-6)


def test_writing_is_all_or_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full_disk(tensors: object, part: Path, metadata: object) -> None:
        part.write_bytes(b"half a fi")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("eachmask.files.tensors.save_file", full_disk)
    with pytest.raises(OSError, match="No space") as caught:
        replace_info(path, card="new")
    assert caught.value.errno == 28 and caught.value.filename == str(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_header_can_be_rewritten(model: nn.Module, path: Path) -> None:
    assert replace_info(path, card="# new").card == "# new"
    again, info = load_model(path)
    assert info.card == "# new" and info.license == INFO.license
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_fields_of_later_versions_are_passed_over(path: Path, model: nn.Module) -> None:
    header = json.loads(INFO.to_json()) | {"mood": "good"}
    save_file(model.state_dict(), path, metadata={HEADER: json.dumps(header)})
    assert read_info(path) == INFO


def test_bad_files_are_named(path: Path, model: nn.Module, tmp_path: Path) -> None:
    text = tmp_path / "text.safetensors"
    text.write_text("no model")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-1000])
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(2)}, foreign)
    garbled = tmp_path / "garbled.safetensors"
    save_file({"a": torch.zeros(2)}, garbled, metadata={HEADER: "{}"})
    for bad in (text, cut, foreign, garbled, tmp_path / "absent.safetensors", tmp_path):
        with pytest.raises(UserError, match=bad.name):
            read_info(bad)


@pytest.mark.parametrize("place", [0.02, 0.2, 0.5, 0.97])
def test_one_flipped_bit_of_a_weight_is_damage(path: Path, place: float) -> None:
    whole = bytearray(path.read_bytes())
    begin = 8 + int.from_bytes(whole[:8], "little")
    whole[begin + int(place * (len(whole) - begin))] ^= 1
    path.write_bytes(whole)
    for use in (load_model, lambda path: replace_info(path, card="new")):
        with pytest.raises(UserError, match=r"small\.safetensors is damaged"):
            use(path)
    assert path.read_bytes() == whole, "a new header does not make it sound"


@pytest.mark.parametrize("text, instead", [("sigma_min", "sigma_max"), ("0.2", "0.3")])
def test_a_changed_header_is_damage(path: Path, text: str, instead: str) -> None:
    whole = path.read_bytes()
    assert text.encode() in whole
    path.write_bytes(whole.replace(text.encode(), instead.encode(), 1))
    with pytest.raises(UserError, match="header of .* is damaged"):
        read_info(path)


def test_files_without_checksums_are_read(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"checksums", b"something", 1))
    assert load_model(path)[1] == INFO


@pytest.mark.parametrize("sums", ["", "[]", "{", '{"a": "b"}', "{}", "[" * 100_000])
def test_checksums_that_are_none(path: Path, model: nn.Module, sums: str) -> None:
    text = INFO.to_json().removesuffix("}") + CHECKSUMS + sums + "}"
    save_file(model.state_dict(), path, metadata={HEADER: text})
    with pytest.raises(UserError, match="header of .* is damaged"):
        read_info(path)


def test_weights_that_do_not_fit_their_variant(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(2)}, other, metadata={HEADER: INFO.to_json()})
    with pytest.raises(UserError, match=r"other\.safetensors does not fit"):
        load_model(other)
    replace_info(path, config={"no_such_option": 1})
    with pytest.raises(UserError, match="does not fit"):
        load_model(path)
    replace_info(path, variant="mask_rcnn_r51")
    with pytest.raises(UserError, match="mask_rcnn_r18_fpn|mask_rcnn_r50_fpn"):
        load_model(path)


@pytest.mark.parametrize("name", sorted(bundled()))
def test_a_damaged_byte_of_a_bundled_file_is_noticed(name: str, tmp_path: Path) -> None:
    damaged = bytearray(bundled()[name].read_bytes())
    damaged[-1] ^= 64
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"damaged.safetensors is damaged \(the checksum of"):
        load_model(path)
        load_classifier(path)
