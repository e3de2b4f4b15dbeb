"""What training starts from is there, and fits: a bundled model that changes its backbone must not be left behind."""

from __future__ import annotations

import pytest

from eachmask import models
from eachmask.models import VARIANTS
from eachmask.recipes import RECIPES, recipe
from eachmask.training.pretrained import choose_start


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_starts(name: str) -> None:
    chosen = recipe(name)()
    assert chosen.start is not None
    said = chosen.start(models.variant(chosen.variant)(num_classes=1, **chosen.config))
    assert "from" in said and "random" not in said


def test_every_backbone_that_a_model_asks_for_fits_one_of_its_variants() -> None:
    asked = {name: kind.backbone_from for name in VARIANTS if (kind := models.model_class(name)).backbone_from}
    fits = {models.model_class(name) for name in asked if getattr(choose_start(name).load, "trained", None)}
    assert fits == {models.model_class(name) for name in asked}
