"""Bodies: torchvision's and timm's networks as pyramids of features, nothing more.

A body has ``channels`` and ``strides`` (fine to coarse) and returns :class:`Features`. None downloads anything.
"""

from __future__ import annotations

from typing import Any

import timm
import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.resnet import Bottleneck

from eachmask.backbones.features import Features


class ResNet(nn.Module):
    """torchvision's ResNet without its classifier: maps C2 ... C5 at strides 4 ... 32 (He et al., arXiv 1512.03385).

    Args:
        name: resnet18, resnet34, resnet50, resnet101, resnext101_32x8d, ...
        norm_eps: epsilon of the batch normalisation; torchvision's first COCO weights were trained with 0.
        stride_first: bottlenecks halve the map in their first (1 x 1) convolution, as in the paper and its Caffe
            models (Detectron2, MMDetection's ``-caffe``), instead of in their 3 x 3 one, as torchvision does.
    """

    def __init__(self, name: str, norm_eps: float = 1e-5, stride_first: bool = False) -> None:
        super().__init__()
        net: Any = getattr(torchvision.models, name)(weights=None)
        self.conv1, self.bn1, self.relu, self.maxpool = net.conv1, net.bn1, net.relu, net.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4
        width = net.fc.in_features
        self.channels = (width // 8, width // 4, width // 2, width)
        self.strides = (4, 8, 16, 32)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = norm_eps
            elif stride_first and isinstance(module, Bottleneck):
                module.conv1.stride, module.conv2.stride = module.conv2.stride, module.conv1.stride

    def forward(self, images: Tensor) -> Features:
        """(B, 3, H, W) -> four maps."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        maps = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            maps.append(x)
        return Features(tuple(maps), self.strides, self.channels)


class Timm(nn.Module):
    """Any timm model that can list its features, from stride 4 on.

    Args:
        name: for example tf_efficientnet_lite0, convnext_tiny, mobilenetv3_large_100.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.net = timm.create_model(name, pretrained=False, features_only=True)
        info = self.net.feature_info
        self.first = next(i for i, stride in enumerate(info.reduction()) if stride >= 4)
        self.channels = tuple(info.channels()[self.first :])
        self.strides = tuple(info.reduction()[self.first :])

    def forward(self, images: Tensor) -> Features:
        """(B, 3, H, W) -> maps from stride 4 on."""
        maps = self.net(images)[self.first :]
        return Features(tuple(maps), self.strides, self.channels)


class Swin(nn.Module):
    """torchvision's Swin transformer (Liu et al., arXiv 2103.14030): maps of its four stages, normalised each.

    Args:
        name: swin_t, swin_s, swin_b, or their _v2.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        net: Any = getattr(torchvision.models, name)(weights=None)
        width = net.head.in_features
        self.channels = (width // 8, width // 4, width // 2, width)
        self.strides = (4, 8, 16, 32)
        nodes = {"features.1": "0", "features.3": "1", "features.5": "2", "features.7": "3"}
        self.net = create_feature_extractor(net, nodes)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for channels in self.channels)

    def forward(self, images: Tensor) -> Features:
        """(B, 3, H, W) -> four maps, channels first."""
        stages = self.net(images).values()
        maps = [norm(x).permute(0, 3, 1, 2).contiguous() for norm, x in zip(self.norms, stages, strict=True)]
        return Features(tuple(maps), self.strides, self.channels)


class FixedNorm(nn.BatchNorm2d):
    """Batch normalisation that stays as it is: running statistics even in training, nothing to learn."""

    def train(self, mode: bool = True) -> FixedNorm:
        """Stays in eval mode, whatever the model around it does."""
        return super().train(False)


def freeze(body: nn.Module, stages: int) -> None:
    """Fix all batch normalisation of a body, and the weights of its first so many stages: fine-tuning on few images.

    Args:
        body: a :class:`ResNet`.
        stages: 0..5, counted from the image: the stem, then layer1 ... layer4. Detectors freeze 2.
    """
    in_order = (body.conv1, body.layer1, body.layer2, body.layer3, body.layer4)
    for stage in in_order[:stages]:
        stage.requires_grad_(False)  # type: ignore[union-attr]
    for parent in list(body.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, _fixed(child))


def _fixed(norm: nn.BatchNorm2d) -> FixedNorm:
    fixed = FixedNorm(norm.num_features, eps=norm.eps, affine=norm.affine)
    fixed.load_state_dict(norm.state_dict())
    return fixed.to(norm.running_mean.device if norm.running_mean is not None else None).eval().requires_grad_(False)
