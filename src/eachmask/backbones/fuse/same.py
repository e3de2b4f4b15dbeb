"""Convolutions with TensorFlow's padding, without a padded copy of the map."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from eachmask.backbones.fuse.conv import FastConv2d, activated, as_computed


class FastConv2dSame(FastConv2d):
    """One with TensorFlow's padding, the output `ceil(size / stride)`: where the zeros are odd, one more comes after.

    oneDNN pads both sides alike. With a row of zeros before the kernel's own, and the larger padding on both sides,
    the same weights meet the same pixels, and no padded copy of the map is made.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to `(N, K, H', W')`, activated."""
        x = as_computed(x)
        (top, bottom), (left, right) = self._zeros(x.shape[2], 0), self._zeros(x.shape[3], 1)
        if self._is_plain(x) or self.dilation != (1, 1):
            x = F.pad(x, (left, right, top, bottom))
            plain = F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)
            return activated(plain, self.activation)
        return self._symmetric(top, bottom, left, right).forward(x)

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """As `FastConv2d.add_to`."""
        raise NotImplementedError("no network adds to a convolution with TensorFlow's padding")

    def _zeros(self, size: int, axis: int) -> tuple[int, int]:
        """Before and after."""
        step, reach = self.stride[axis], self.dilation[axis] * (self.kernel_size[axis] - 1)
        total = max(0, (-(-size // step) - 1) * step + reach + 1 - size)
        return total // 2, total - total // 2

    def _symmetric(self, top: int, bottom: int, left: int, right: int) -> FastConv2d:
        """The convolution with the same padding on both sides that does the same."""
        key = (top, bottom, left, right)
        if key not in self._by_zeros:
            weight = F.pad(self.weight, (right - left, 0, bottom - top, 0))
            size, stride = (weight.shape[2], weight.shape[3]), (self.stride[0], self.stride[1])
            geometry = nn.Conv2d(
                self.in_channels, self.out_channels, size, stride, (bottom, right),
                groups=self.groups, bias=False, device="meta",
            )  # fmt: skip
            conv = FastConv2d.of(geometry, weight, self.bias, self.activation).eval()
            conv.layouts_allowed = self.layouts_allowed
            self._by_zeros[key] = conv
        return self._by_zeros[key]

    def _forget_layouts(self) -> None:
        super()._forget_layouts()
        self._by_zeros: dict[tuple[int, ...], FastConv2d] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_by_zeros": {}}
