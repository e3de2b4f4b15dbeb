"""Networks for mattes: the three verbs on awkward input, learning by heart, and what is special about each."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from models.siblings import check_complete, without_numbers
from one_step import check_learns_in_bf16
from stand_in_pymatting import stand_in  # noqa: F401
from torch import nn

from eachmask import models
from eachmask.data.transforms.trimaps import around
from eachmask.models.config import changed
from eachmask.models.matting.automatic_matting import BACKGROUND, FOREGROUND, UNKNOWN
from eachmask.models.matting.automatic_matting import Raw as Said
from eachmask.models.matting.background_matting import Raw, rough_outline
from eachmask.models.matting.background_matting_v2 import replaced, windows
from eachmask.models.matting.network import laplacian_loss
from eachmask.models.matting.trimap_ladder import planes_of
from eachmask.models.protocol import Model, Recurrent
from eachmask.structures import RLE, DecodeOptions, ImageBatch, Matte, Trimap, UserError
from eachmask.structures.backdrop import Backdrop

pytestmark = pytest.mark.usefixtures("stand_in")

CASES = {
    "background_matting_small": {"width": 8, "shared_blocks": 1, "own_blocks": 1},
    "background_matting_v2_mobilenetv2": {"scale": 0.5, "sample_pixels": 1600},
    "robust_video_matting_mobilenetv3": {"side": 64},
    "modnet": {},
    "automatic_matting_lite0": {},
    "dcnn_matting": {"widths": (8, 8, 8)},
    "deep_matting_lite0": {},
}


SIBLINGS = {
    "background_matting": "background_matting_small",
    "background_matting_v2_resnet50": "background_matting_v2_mobilenetv2",
    "robust_video_matting_resnet50": "robust_video_matting_mobilenetv3",
}
"""Large variants -> the small one that keeps the promises for them."""


def built(name: str) -> Any:
    torch.manual_seed(0)
    return models.variant(name)(**CASES[name]).eval()


@pytest.fixture(scope="module", params=list(CASES))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def network(name: str) -> Any:
    return built(name)


def scene(size: tuple[int, int], seed: int) -> tuple[torch.Tensor, Backdrop, Matte]:
    """A soft disk of one color before noise: image, background and matte."""
    height, width = size
    generator = torch.Generator().manual_seed(seed)
    behind = 0.4 * torch.rand(3, *size, generator=generator)
    ys, xs = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    apart = ((ys - height / 2) ** 2 + (xs - width * (0.3 + 0.2 * (seed % 3))) ** 2).sqrt()
    alpha = ((0.3 * height - apart) / 6 + 0.5).clamp(0, 1)
    color = torch.tensor([0.9, 0.6, 0.3]).view(3, 1, 1).expand(3, *size).contiguous()
    return torch.lerp(behind, color, alpha), Backdrop(behind), Matte(alpha, color)


def handed(model: Any, size: tuple[int, int], seed: int) -> Backdrop | Trimap | None:
    """What the model wants besides the image."""
    _, behind, matte = scene(size, seed)
    return {Backdrop: behind, Trimap: around(matte.alpha.numpy(), 2), None: None}[model.takes]


def scenes(model: Any, *sizes: tuple[int, int]) -> tuple[ImageBatch, list[Any] | None, list[Matte]]:
    made = [scene(size, seed) for seed, size in enumerate(sizes)]
    batch = ImageBatch.from_tensors([image for image, _, _ in made], divisor=1)
    given = None if model.takes is None else [handed(model, size, seed) for seed, size in enumerate(sizes)]
    return batch, given, [matte for _, _, matte in made]


@torch.inference_mode()
def predict(model: Any, batch: ImageBatch, given: Any) -> list[Matte]:
    return model.decode(model(batch, given), DecodeOptions())


def test_every_variant_is_here():
    check_complete("matting", CASES, SIBLINGS)


@pytest.mark.parametrize("name", sorted(SIBLINGS))
def test_large_variants_are_built_of_the_same_code(name):
    large, small = without_numbers(name, SIBLINGS[name])
    assert type(large) is type(small)


def test_it_is_a_model(network):
    assert isinstance(network, Model) and network.task.name == "matting"


def test_mattes_lie_on_their_images(network):
    batch, given, _ = scenes(network, (50, 70), (64, 41))
    found = predict(network, batch, given)
    assert [matte.image_size for matte in found] == [(50, 70), (64, 41)]


def test_a_batch_changes_nothing(network):
    made = [scenes(network, (64, 96)), scenes(network, (64, 96))]
    batch = ImageBatch.from_tensors([scene((64, 96), seed)[0] for seed in (0, 5)], divisor=1)
    given = None if made[0][1] is None else [handed(network, (64, 96), seed) for seed in (0, 5)]
    together = predict(network, batch, given)
    for i in range(2):
        one = ImageBatch(batch.tensor[i : i + 1], batch.sizes[:1])
        (alone,) = predict(network, one, None if given is None else given[i : i + 1])
        assert (alone.alpha - together[i].alpha).abs().max() < 1e-3


def test_bf16_predicts_and_learns(network):
    batch, given, targets = scenes(network, (64, 96), (80, 64))
    with torch.autocast("cpu", torch.bfloat16):
        found = predict(network, batch, given)
    assert [matte.alpha.dtype for matte in found] == [torch.float32] * 2
    check_learns_in_bf16(network, batch, targets, given)


def test_losses_are_finite_and_reach_every_parameter(network):
    model = copy.deepcopy(network).train()
    batch, given, targets = scenes(model, (64, 96), (80, 64))
    targets[1] = Matte(targets[1].alpha)  # of which no foreground is known
    losses = model.losses(model(batch, given), targets)
    assert all(value.ndim == 0 and torch.isfinite(value) for value in losses.values()), losses
    sum(losses.values()).backward()
    unreached = [name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not [name for name in unreached if not name.startswith("refiner.")], unreached


def test_nothing_and_everything_are_learnt_without_trouble(network):
    batch, given, targets = scenes(network, (64, 64), (64, 64))
    for value in (0.0, 1.0):
        flat = [Matte(torch.full(target.image_size, value)) for target in targets]
        losses = network.losses(network(batch, given), flat)
        assert all(torch.isfinite(loss) for loss in losses.values())


@pytest.mark.slow
def test_learns_by_heart(name):
    model = built(name)
    batch, given, targets = scenes(model, (96, 128), (96, 128), (96, 128))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    apart = 1.0
    for step in range(800):  # a network that normalizes over few images needs most
        model.train()
        losses = model.losses(model(batch, given), targets)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        if step % 50 == 49:
            found = predict(model.eval(), batch, given)
            apart = max(float((f.alpha - t.alpha).abs().mean()) for f, t in zip(found, targets, strict=True))
            if apart < 0.02:
                return
    pytest.fail(f"mean absolute difference of alpha {apart}")


# What is special ------------------------------------------------------------------------------------------------------


def test_windows_around_cells_are_put_back():
    maps = torch.arange(2 * 3 * 8 * 12, dtype=torch.float32).reshape(2, 3, 8, 12)
    cells = torch.tensor([[0, 0, 0], [1, 1, 2]])
    around = windows(maps, cells, 4, 2)
    assert around.shape == (2, 3, 8, 8) and torch.equal(around[1, :, 2:6, 2:6], maps[1, :, 4:8, 8:12])
    assert (around[0, :, :2] == 0).all(), "beyond the border is nothing"
    changed = replaced(maps, around[:, :, 2:6, 2:6] + 1, cells)
    assert torch.equal(changed[1, :, 4:8, 8:12], maps[1, :, 4:8, 8:12] + 1)
    assert int((changed != maps).sum()) == 2 * 3 * 16


@pytest.mark.parametrize("kernel", [1, 3])
def test_all_cells_one_by_one_are_the_whole(kernel: int):
    torch.manual_seed(0)
    model = models.variant("background_matting_v2_mobilenetv2")(scale=0.5, kernel=kernel, mode="full").eval()
    batch, given, _ = scenes(model, (64, 96))
    with torch.inference_mode():
        whole = model(batch, given)
        model.config = changed(model.config, {"mode": "thresholding", "threshold": -1.0})
        cells = model(batch, given)
    assert cells.refined.all() and (whole.alpha - cells.alpha).abs().max() < 1e-4


def test_a_rough_outline_is_soft_and_without_specks():
    behind = torch.full((1, 3, 120, 120), 0.5)
    image = behind.clone()
    image[..., 30:90, 30:90] += 0.1
    image[..., 5, 5] = 1.0  # noise
    image[..., 100:, 100:] += 0.05  # a faint shadow
    outline = rough_outline(torch.cat([image, behind], 1), 0.08)[0, 0]
    assert outline[60, 60] == pytest.approx(1) and outline[:8, :8].max() == 0 == outline[115:, 115:].max()
    across = outline[60, :31]  # from background into the subject: rises, beginning before the border
    assert (across.diff() >= -1e-6).all() and 0 < across[20] < 1 and across[:5].max() == 0


def test_background_matting_learns_that_the_image_is_composed():
    """With the truth for an answer all losses vanish; half as opaque, the image is wrong by half of what differs."""
    batch, given, targets = scenes(built("background_matting_small"), (64, 96))
    pair = torch.cat([batch.tensor, given[0].colors[None]], 1)
    alpha, color = targets[0].alpha[None, None], targets[0].foreground[None]
    model = built("background_matting_small")
    losses = model.losses(Raw(alpha, color, pair, batch.sizes), targets)
    assert all(float(value) < 1e-6 for value in losses.values())
    wrong = model.losses(Raw(alpha / 2, color, pair, batch.sizes), targets)
    apart = (batch.tensor - pair[:, 3:]).abs().mean()
    assert float(wrong["image"]) == pytest.approx(float(apart) / 2, rel=1e-4)
    shifted = model.losses(Raw(alpha, color + 0.1, pair, batch.sizes), targets)
    assert float(shifted["foreground"]) == pytest.approx(2 * 0.1 * float((alpha > 0).float().mean()), rel=1e-4)


@pytest.mark.parametrize("name", ["background_matting_v2_mobilenetv2", "background_matting_small"])
def test_without_a_background_one_sentence(name):
    model = built(name)
    with pytest.raises(UserError, match="give --background"):
        model(scenes(model, (64, 64))[0])


@pytest.mark.parametrize("name", ["automatic_matting_lite0", "deep_matting_lite0", "dcnn_matting"])
def test_what_a_trimap_knows_stays(name):
    model = built(name)
    batch, given, _ = scenes(model, (50, 70), (64, 41))
    for matte, known in zip(predict(model, batch, given), given or [], strict=True):
        assert known.unknown.any() and (matte.alpha[known.foreground] == 1).all()
        assert (matte.alpha[known.background] == 0).all() and not (matte.alpha[known.unknown] == 0).all()
    with pytest.raises(UserError, match="give --trimap"):
        model(batch)


@pytest.mark.parametrize("name", ["automatic_matting_lite0", "deep_matting_lite0"])
def test_a_trimap_without_a_gap_needs_no_network(name: str, monkeypatch: pytest.MonkeyPatch):
    model = built(name)
    for part in (model.backbone, getattr(model.backbone, "net", model.backbone)):
        monkeypatch.setattr(part, "forward", None)
    batch, given, _ = scenes(model, (64, 64))
    closed = [Trimap(torch.where(one.unknown, 255, one.values)) for one in given or []]
    (matte,) = predict(model, batch, closed)
    assert torch.equal(matte.alpha, closed[0].foreground.float())


def test_an_outline_lies_half_way_between_what_is_known():
    """A band around a mask keeps where the mask ended; a tile that knows one side alone takes it for all."""
    mask = torch.zeros(60, 80, dtype=torch.bool)
    mask[15:45, 20:60] = True
    trimap = Trimap.from_mask(RLE.from_bitmaps(mask.numpy()[None]), 0.25)
    known = torch.stack([trimap.foreground, trimap.unknown, trimap.background]).float()[None]
    near = planes_of(known)[0, 2]
    assert (near[trimap.foreground] == 1).all() and (near[trimap.background] == 0).all()
    along = near[30, 5:35]  # across the left side, whose outline is between pixels 19 and 20
    assert float(along[14]) < 0.5 < float(along[15]) and (along.diff() >= 0).all()
    for value in (0, 255):
        alone = torch.full((8, 8), value, dtype=torch.uint8)
        alone[3] = 128
        sides = Trimap(alone)
        planes = torch.stack([sides.foreground, sides.unknown, sides.background]).float()[None]
        assert planes_of(planes)[0, 2].numpy() == pytest.approx(value / 255, abs=1e-3)


def said_of(labels: torch.Tensor, opacity: torch.Tensor) -> torch.Tensor:
    """(4, H, W) as a network says it that is sure of its labels (H, W)."""
    logits = [torch.where(labels == label, 20.0, 0.0) for label in (FOREGROUND, UNKNOWN, BACKGROUND)]
    return torch.stack([*logits, opacity.logit()])


def test_certainties_are_known_to_the_solver():
    """What is told is foreground or background alone; what is undecided, or hardly decided, stays open."""
    model = built("automatic_matting_lite0")
    said = said_of(torch.tensor([[FOREGROUND, UNKNOWN, BACKGROUND, FOREGROUND]]), torch.full((1, 4), 0.3))
    said[FOREGROUND, 0, 3] = 2.5  # a probability of 0.86
    assert model.told(said).tolist() == [[1, 0.5, 0, 0.5]]
    said[FOREGROUND, 0, 3] = 3.5  # 0.94
    assert model.told(said).tolist() == [[1, 0.5, 0, 1]]


def test_a_tile_without_a_side_is_not_solved():
    """All of it open, and the network undecided everywhere: its opacity is the answer."""
    model = built("automatic_matting_lite0")
    undecided, opacity = torch.full((2, 3), UNKNOWN), torch.rand(2, 3) * 0.8 + 0.1
    known = torch.zeros(1, 3, 2, 3)
    known[:, 1] = 1
    raw = Said(said_of(undecided, opacity)[None], known, torch.zeros(1, 3, 2, 3), ((2, 3),))
    (matte,) = model.decode(raw, DecodeOptions())
    assert matte.alpha.numpy() == pytest.approx(opacity.numpy(), abs=1e-4)


def test_labels_are_learnt_where_the_trimap_is_open():
    """No loss of labels where all is said right, and one where the trimap does not know and the network is wrong."""
    model = built("automatic_matting_lite0")
    alpha = torch.tensor([[1.0, 0.97, 0.5, 0.04, 0.0, 0.0]])
    right = torch.tensor([[FOREGROUND, FOREGROUND, UNKNOWN, BACKGROUND, BACKGROUND, BACKGROUND]])
    known = torch.zeros(1, 3, 1, 6)
    known[0, 1, :, :5], known[0, 2, :, 5] = 1, 1

    def losses(labels: torch.Tensor, opacity: torch.Tensor) -> list[float]:
        raw = Said(said_of(labels, opacity.clamp(1e-6, 1 - 1e-6))[None], known, torch.zeros(1, 3, 1, 6), ((1, 6),))
        return [float(value) for value in model.losses(raw, [Matte(alpha)]).values()]

    assert losses(right, alpha) == pytest.approx([0, 0], abs=1e-4)
    elsewhere = right.clone()
    elsewhere[0, 5] = FOREGROUND
    assert losses(elsewhere, alpha) == pytest.approx([0, 0], abs=1e-4), "what was given is not to be learnt"
    wrong = right.clone()
    wrong[0, 1] = UNKNOWN
    assert losses(wrong, alpha)[0] == pytest.approx(20 / 5, rel=1e-3)
    assert losses(right, alpha.roll(1))[1] > 0.1


def test_what_was_solved_is_changed():
    """Before it learns it says what the solver found; a tile that knows only one side takes it for all."""
    model = built("dcnn_matting")
    batch, given, targets = scenes(model, (64, 96))
    (matte,) = predict(model, batch, given)
    assert (matte.alpha - targets[0].alpha).abs().mean() < 0.05
    model.change.last.bias.data += 0.1
    (changed,) = predict(model, batch, given)
    open_ = (given or [])[0].unknown & (matte.alpha < 0.9)
    assert torch.allclose(changed.alpha[open_], matte.alpha[open_] + 0.1)
    model.change.last.bias.data -= 0.1
    for value in (0, 255):
        sliver = torch.full((64, 96), value, dtype=torch.uint8)
        sliver[20:30] = 128
        (alone,) = predict(model, batch, [Trimap(sliver)])
        assert (alone.alpha == value / 255).all()


def test_a_video_is_remembered():
    model = built("robust_video_matting_mobilenetv3")
    assert isinstance(model, Recurrent)
    batch, _, _ = scenes(model, (64, 96))
    with torch.inference_mode():
        first, state = model.step(batch, None)
        second, _ = model.step(batch, state)
        again, _ = model.step(batch, None)
    assert torch.equal(first.segmentation, again.segmentation)
    assert not torch.equal(first.segmentation, second.segmentation)


def test_laplacian_loss_weighs_what_is_wide():
    """A difference of low frequency costs more than one of high frequency of the same size, and none costs nothing."""
    zero = torch.zeros(1, 1, 64, 64)
    board = torch.arange(64).remainder(2).float().view(1, 1, 1, 64).expand_as(zero) - 0.5
    wide = torch.full_like(zero, 0.5)
    wide[..., :32] = -0.5
    assert float(laplacian_loss(zero, zero)) == 0
    assert float(laplacian_loss(zero, wide)) > 0 and float(laplacian_loss(zero, board)) > 0
    assert float(laplacian_loss(zero, 2 * board)) == pytest.approx(2 * float(laplacian_loss(zero, board)))
