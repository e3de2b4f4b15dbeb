"""VoVNetV2: a stage concatenates all its layers' outputs once, at its end (Lee, Park, arXiv 1911.06667, section 3.3).

timm's network, except that timm weighs channels ("effective squeeze and excitation") only in each stage's last
block, the authors' detectors in every block.
"""

from __future__ import annotations

from typing import Any

from eachmask.backbones.networks import Timm


class VoVNet(Timm):
    """Maps at strides 4 ... 32.

    Args:
        name: a VoVNet of timm's with eSE, for example ese_vovnet39b.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        from timm.layers.create_attn import create_attn  # timm has been loaded by now

        net: Any = self.net
        for stage, channels in enumerate(self.channels):
            for block in net[f"stages_{stage}"].blocks:
                if block.attn is None:
                    block.attn = create_attn("ese", channels)  # type: ignore[no-untyped-call]
