"""Make a trained network fast on the CPU without changing what it computes.

`optimize_for_inference` returns a copy in which

* batch normalization is folded into the convolution before it (`w x + b` is an affine map; so is the
  normalization with fixed statistics, and one affine map after another is one affine map),
* activation and residual addition ride on the convolution's own write instead of passing over memory again,
* maps lie channels-last, which spares oneDNN a reordering of every input and output,
* TensorFlow's padding, one more zero after than before, is in the kernel instead of a padded copy of the map.

**What may be folded is proven, not guessed** (`graph`): a network's attributes say nothing about the order of calls,
so `torch.fx` follows the forward code. The forward code of all modules stays the same and keeps its attributes and
verbs: only the leaves are exchanged (`folding`), convolutions for `conv.FastConv2d` or `same.FastConv2dSame`, a folded
batch norm for `nn.Identity`. Residual blocks of torchvision's ResNets (`residual`) and feature pyramids (`pyramid`)
are exchanged whole; a module with a faster twin of its own names it by a method `for_inference()`.

Shapes: maps `(N, C, H, W)`.
"""

from eachmask.backbones.fuse.conv import FastConv2d
from eachmask.backbones.fuse.optimize import optimize_for_inference
from eachmask.backbones.fuse.same import FastConv2dSame

__all__ = ["FastConv2d", "FastConv2dSame", "optimize_for_inference"]
