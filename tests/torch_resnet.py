"""An independent PyTorch ResNet-50 with torchvision's key names, as the oracle of the port.

Written from the published layout (bottlenecks 3-4-6-3, stride on the 3 x 3 convolution), not from
our module. Only `width` and `blocks` are added, so that tests can be small.
"""

import torch
from torch import nn


class Bottleneck(nn.Module):
    def __init__(self, inputs, width, stride, project):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = None
        if project:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, 4 * width, kernel_size=1, stride=stride, bias=False),
                nn.BatchNorm2d(4 * width),
            )

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return torch.relu(self.bn3(self.conv3(x)) + shortcut)


class ResNet(nn.Module):
    def __init__(self, width=64, blocks=(3, 4, 6, 3), classes=1000):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        inputs = width
        for index, count in enumerate(blocks):
            inner = width * 2**index
            stage = []
            for block in range(count):
                stride = 2 if block == 0 and index > 0 else 1
                stage.append(Bottleneck(inputs, inner, stride, project=block == 0))
                inputs = 4 * inner
            setattr(self, f"layer{index + 1}", nn.Sequential(*stage))
        self.stages = len(blocks)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, images):
        """[n, 3, h, w] in [0, 1] -> {"stem", "layer1", ...}, each [n, c, h', w']."""
        mean = torch.tensor([0.485, 0.456, 0.406], dtype=images.dtype).view(1, 3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225], dtype=images.dtype).view(1, 3, 1, 1)
        x = torch.relu(self.bn1(self.conv1((images - mean) / std)))
        taps = {"stem": x}
        x = self.maxpool(x)
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"layer{stage}")(x)
            taps[f"layer{stage}"] = x
        return taps


def random_resnet(seed, **options):
    """Evaluation mode; every weight and running statistic is random and far from its default."""
    generator = torch.Generator().manual_seed(seed)
    model = ResNet(**options).eval()

    def uniform(tensor, low, high):
        tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                fan_in = module.weight[0].numel()
                noise = torch.randn(module.weight.shape, generator=generator)
                module.weight.copy_(noise * (2 / fan_in) ** 0.5)
            elif isinstance(module, nn.BatchNorm2d):
                uniform(module.weight, 0.3, 0.9)
                uniform(module.bias, -0.3, 0.3)
                uniform(module.running_mean, -0.5, 0.5)
                uniform(module.running_var, 0.5, 2.0)
    return model
