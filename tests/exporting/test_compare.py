"""When an exported file counts as equal to its model."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.exporting.compare import TOLERANCE, by_rounding, difference
from eachmask.runtimes.header import Header
from eachmask.structures import ImageBatch
from eachmask.weights.file import ModelInfo


def test_one_place_far_off_is_rounding_and_all_places_are_not() -> None:
    expected = torch.linspace(-1, 1, 1000)
    one = expected.clone()
    one[500] += 0.5
    assert difference(one, expected) > TOLERANCE["fp32"]
    assert difference(one, expected, "bf16") < TOLERANCE["bf16"]
    shifted = expected.roll(60)
    assert difference((shifted,), (expected,), "bf16") > TOLERANCE["bf16"]
    assert difference([one], [one, one], "bf16") == difference(one[1:], one, "bf16") == float("inf")
    assert difference(None, expected, "bf16") == 0


class Cancelling(nn.Module):
    """A layer whose large numbers nearly cancel, as rounded ones do not; or one that gives another number of values."""

    def __init__(self, changes: bool = False) -> None:
        super().__init__()
        self.changes = changes

    def forward(self, images: ImageBatch) -> Tensor:
        x = images.tensor
        sums = F.linear(torch.cat([x, 100.001 * torch.ones_like(x)], -1), torch.tensor([[1.0, 1.0, -1.0, -1.0]]))
        return sums[..., : 1 - int(self.changes and sums.dtype == torch.bfloat16)]


def test_what_rounding_does_to_a_network_is_allowed_of_its_file_too() -> None:
    images = torch.tensor([[0.3, 0.2]]).expand(1, 3, 4, 2)
    batch = ImageBatch(images, ((4, 2),))
    model, changing = Cancelling(), Cancelling(changes=True)
    header = Header(ModelInfo("spots"), "forward", {}, "bf16")
    allowed = by_rounding(model, header, batch, model(batch))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(batch)
    assert allowed == 2 * difference(rounded, model(batch), "bf16") > 0
    assert by_rounding(model, Header(ModelInfo("spots"), "forward", {}), batch, model(batch)) == 0
    assert by_rounding(changing, header, batch, changing(batch)) == 0, "no number of values is excused"
