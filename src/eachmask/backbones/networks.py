"""Backbones: torchvision's and timm's convolutional networks as pyramids of features, nothing more.

A backbone has ``channels`` and ``strides`` (fine to coarse) and returns :class:`Features`. None downloads anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from eachmask.accel.lazy_dynamo import timm, torchvision
from eachmask.backbones.features import Features
from eachmask.backbones.mix_transformer import MixTransformer
from eachmask.backbones.swin import Swin
from eachmask.structures import UserError


class ResNet(nn.Module):
    """torchvision's ResNet without its classifier: maps C2 ... C5 at strides 4 ... 32 (He et al., arXiv 1512.03385).

    Args:
        name: resnet18, resnet34, resnet50, resnet101, resnext101_32x8d, ...
        norm_eps: epsilon of the batch normalization; torchvision's first COCO weights were trained with 0.
        stride_first: bottlenecks halve the map in their first (1 x 1) convolution, as in the paper and its Caffe
            models (Detectron2, MMDetection's ``-caffe``), instead of in their 3 x 3 one, as torchvision does.
        coarsest: 16 or 8: the last stages do not halve the map any more but dilate their convolutions, as torchvision
            does it: the first block of such a stage still has the dilation of the stage before.
        deep_stem: three 3 x 3 convolutions instead of one of 7 x 7, the first two of so many channels and the last of
            twice as many (ResNet-C, He et al., arXiv 1812.01187; MMSegmentation's have 32, DeepLab's 64); 0 is the
            usual stem.
        multi_grid: by how much the blocks of the last stage multiply its dilation (DeepLabv3, arXiv 1706.05587, section
            3.2.1); () leaves them as they are.
    """

    def __init__(
        self,
        name: str,
        norm_eps: float = 1e-5,
        stride_first: bool = False,
        coarsest: Literal[8, 16, 32] = 32,
        deep_stem: int = 0,
        multi_grid: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        dilate = [False, coarsest < 16, coarsest < 32]
        net: Any = getattr(torchvision().models, name)(weights=None, replace_stride_with_dilation=dilate)
        self.name = name
        self.stem: nn.Sequential | None = None
        if deep_stem:
            self.stem, self.maxpool = _deep_stem(deep_stem), net.maxpool
            _widen(net.layer1[0], 2 * deep_stem)
        else:
            self.conv1, self.bn1, self.relu, self.maxpool = net.conv1, net.bn1, net.relu, net.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4
        width = net.fc.in_features
        self.channels = (width // 8, width // 4, width // 2, width)
        self.strides = (4, 8, min(16, coarsest), coarsest)
        for block, factor in zip(net.layer4, multi_grid, strict=False):
            _dilate(block, 32 // coarsest * factor)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = norm_eps
            elif stride_first and isinstance(module, torchvision().models.resnet.Bottleneck):
                module.conv1.stride, module.conv2.stride = module.conv2.stride, module.conv1.stride

    def forward(self, images: Tensor) -> Features:
        """(B, 3, H, W) -> four maps."""
        x = self.relu(self.bn1(self.conv1(images))) if self.stem is None else self.stem(images)
        x = self.maxpool(x)
        maps = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            maps.append(x)
        return Features(tuple(maps), self.strides, self.channels)


def _deep_stem(width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((3, width, 2), (width, width, 1), (width, 2 * width, 1)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


def _widen(block: Any, channels: int) -> None:
    """A stage's first block for a map of so many channels."""
    if block.conv1.in_channels == channels:
        return
    block.conv1 = nn.Conv2d(channels, block.conv1.out_channels, 1, bias=False)
    block.downsample[0] = nn.Conv2d(channels, block.downsample[0].out_channels, 1, bias=False)
    for layer in (block.conv1, block.downsample[0]):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


def _dilate(block: Any, dilation: int) -> None:
    block.conv2.dilation = block.conv2.padding = (dilation, dilation)


class Timm(nn.Module):
    """Any timm model that can list its features, from stride 4 on.

    Args:
        name: for example tf_efficientnet_lite0, convnext_tiny, mobilenetv3_large_100.
        finest: 2 gives the map of that stride too, where the network has one.
        coarsest: 16 or 8: the last stages dilate their convolutions instead of halving the map.

    Raises:
        UserError: timm has no such model, or it lists no features.
    """

    def __init__(self, name: str, finest: Literal[2, 4] = 4, coarsest: Literal[8, 16, 32] = 32) -> None:
        super().__init__()
        more = {} if coarsest == 32 else {"output_stride": coarsest}
        try:
            self.net = timm().create_model(name, pretrained=False, features_only=True, **more)
        except RuntimeError as error:  # unknown, or no network of maps
            raise UserError(f"{name} is no backbone of timm's: {error}") from error
        info = self.net.feature_info
        self.first = next(i for i, stride in enumerate(info.reduction()) if stride >= finest)
        self.channels = tuple(info.channels()[self.first :])
        self.strides = tuple(info.reduction()[self.first :])

    def forward(self, images: Tensor) -> Features:
        """(B, 3, H, W) -> maps from the finest stride on."""
        maps = self.net(images)[self.first :]
        return Features(tuple(maps), self.strides, self.channels)


class MobileNetV3(nn.Module):
    """torchvision's MobileNetV3 (Howard et al., arXiv 1905.02244): the maps of its stages from stride 4 on.

    Args:
        name: mobilenet_v3_large or mobilenet_v3_small.
        dilated: the last stage dilates its convolutions and stays at stride 16.
    """

    def __init__(self, name: str, dilated: bool = False) -> None:
        super().__init__()
        self.name = name
        self.net: Any = getattr(torchvision().models, name)(weights=None, dilated=dilated).features
        # Where a stage begins, from stride 4 on: its first block halves the map, or would without dilation.
        begins = [i for i, block in enumerate(self.net) if getattr(block, "_is_cn", False)]
        self.taps = (*begins, len(self.net) - 1)
        self.channels = tuple(self.net[i].out_channels for i in self.taps)
        last = 16 if dilated else 32
        self.strides = (4, 8, 16, last, last)

    def from_classifier(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """torchvision's state dict of the classifier of that name -> what this network takes of it."""
        return {f"net.{k.removeprefix('features.')}": v for k, v in state.items() if k.startswith("features.")}

    def forward(self, images: Tensor) -> Features:
        """(B, 3, H, W) -> maps where a stage begins, and the last one."""
        maps, x = [], images
        for i, block in enumerate(self.net):
            x = block(x)
            if i in self.taps:
                maps.append(x)
        return Features(tuple(maps), self.strides, self.channels)


def stages(backbone: nn.Module) -> list[list[nn.Module]]:
    """A backbone's parts in the order an image passes them: the stem, then the stages that halve the map or widen it.

    Raises:
        UserError: a backbone of unknown build.
    """
    if isinstance(backbone, nn.ModuleDict):  # several backbones side by side, as SDS has
        together = zip(*(stages(part) for part in backbone.values()), strict=True)
        return [[module for part in stage for module in part] for stage in together]
    if isinstance(backbone, ResNet):
        return [
            [backbone.conv1, backbone.bn1] if backbone.stem is None else [backbone.stem],
            *([layer] for layer in (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4)),
        ]
    if isinstance(backbone, Swin):
        return backbone.parts()
    if isinstance(backbone, MixTransformer):
        return [[stage] for stage in backbone.stages]
    net: Any = getattr(backbone, "net", backbone)
    if isinstance(getattr(net, "blocks", None), nn.Sequential):  # timm's EfficientNet, MobileNet, ...
        stem: list[nn.Module] = [m for name, m in net.named_children() if name in ("conv_stem", "bn1")]
        return [stem, *([block] for block in net.blocks)]
    children = list(net.children())
    if not children:
        raise UserError(f"{type(backbone).__name__} has no stages that could be frozen")
    return [[child] for child in children]


def freeze(backbone: nn.Module, num_stages: int) -> None:
    """Fix the weights of a backbone's first stages and all of its batch normalization: fine-tuning on few images.

    What learns nothing is also kept in eval mode by :func:`set_training_mode`, so that the statistics of a few small
    batches do not replace those of ImageNet.

    Args:
        num_stages: counted from the image, see :func:`stages`. Detectors freeze 2.
    """
    for stage in stages(backbone)[:num_stages]:
        for module in stage:
            module.requires_grad_(False)
    for module in backbone.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.requires_grad_(False)


def set_training_mode(model: nn.Module) -> None:
    """``model.train()``, except for frozen batch normalization."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.affine and not module.weight.requires_grad:
                module.eval()
