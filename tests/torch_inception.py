"""An independent PyTorch Inception-v3 with the published key names, as the oracle of the port.

Written from the description of the blocks (kernel, stride, padding and order of every branch), not
from our module. `fid` switches the three differences of the network that FID is defined on.
"""

import torch
import torch.nn.functional as F
from torch import nn


class Unit(nn.Module):
    def __init__(self, inputs, outputs, kernel=1, stride=1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x):
        return torch.relu(self.bn(self.conv(x)))


def chain(block, x, *names):
    for name in names:
        x = getattr(block, name)(x)
    return x


class Block(nn.Module):
    """Units by name; `average` and the maximum of 7c are set by the network."""

    def __init__(self, pool="average", **units):
        super().__init__()
        self.pool = pool
        for name, sizes in units.items():
            setattr(self, name, Unit(*sizes))

    def pooled(self, x):
        if self.pool == "max":
            return F.max_pool2d(x, 3, stride=1, padding=1)
        return F.avg_pool2d(
            x, 3, stride=1, padding=1, count_include_pad=self.pool == "average_with_zeros"
        )


class A(Block):
    def __init__(self, inputs, pool_features, pool):
        super().__init__(
            pool,
            branch1x1=(inputs, 64),
            branch5x5_1=(inputs, 48),
            branch5x5_2=(48, 64, 5, 1, 2),
            branch3x3dbl_1=(inputs, 64),
            branch3x3dbl_2=(64, 96, 3, 1, 1),
            branch3x3dbl_3=(96, 96, 3, 1, 1),
            branch_pool=(inputs, pool_features),
        )

    def forward(self, x):
        five = chain(self, x, "branch5x5_1", "branch5x5_2")
        three = chain(self, x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(self.pooled(x))], 1)


class B(Block):
    def __init__(self, inputs):
        super().__init__(
            branch3x3=(inputs, 384, 3, 2),
            branch3x3dbl_1=(inputs, 64),
            branch3x3dbl_2=(64, 96, 3, 1, 1),
            branch3x3dbl_3=(96, 96, 3, 2),
        )

    def forward(self, x):
        three = chain(self, x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
        return torch.cat([self.branch3x3(x), three, F.max_pool2d(x, 3, 2)], 1)


class C(Block):
    def __init__(self, inputs, c7, pool):
        row, column = ((1, 7), 1, (0, 3)), ((7, 1), 1, (3, 0))
        super().__init__(
            pool,
            branch1x1=(inputs, 192),
            branch7x7_1=(inputs, c7),
            branch7x7_2=(c7, c7, *row),
            branch7x7_3=(c7, 192, *column),
            branch7x7dbl_1=(inputs, c7),
            branch7x7dbl_2=(c7, c7, *column),
            branch7x7dbl_3=(c7, c7, *row),
            branch7x7dbl_4=(c7, c7, *column),
            branch7x7dbl_5=(c7, 192, *row),
            branch_pool=(inputs, 192),
        )

    def forward(self, x):
        one = chain(self, x, "branch7x7_1", "branch7x7_2", "branch7x7_3")
        two = chain(self, x, *(f"branch7x7dbl_{i}" for i in range(1, 6)))
        return torch.cat([self.branch1x1(x), one, two, self.branch_pool(self.pooled(x))], 1)


class D(Block):
    def __init__(self, inputs):
        super().__init__(
            branch3x3_1=(inputs, 192),
            branch3x3_2=(192, 320, 3, 2),
            branch7x7x3_1=(inputs, 192),
            branch7x7x3_2=(192, 192, (1, 7), 1, (0, 3)),
            branch7x7x3_3=(192, 192, (7, 1), 1, (3, 0)),
            branch7x7x3_4=(192, 192, 3, 2),
        )

    def forward(self, x):
        three = chain(self, x, "branch3x3_1", "branch3x3_2")
        seven = chain(self, x, *(f"branch7x7x3_{i}" for i in range(1, 5)))
        return torch.cat([three, seven, F.max_pool2d(x, 3, 2)], 1)


class E(Block):
    def __init__(self, inputs, pool):
        row, column = ((1, 3), 1, (0, 1)), ((3, 1), 1, (1, 0))
        super().__init__(
            pool,
            branch1x1=(inputs, 320),
            branch3x3_1=(inputs, 384),
            branch3x3_2a=(384, 384, *row),
            branch3x3_2b=(384, 384, *column),
            branch3x3dbl_1=(inputs, 448),
            branch3x3dbl_2=(448, 384, 3, 1, 1),
            branch3x3dbl_3a=(384, 384, *row),
            branch3x3dbl_3b=(384, 384, *column),
            branch_pool=(inputs, 192),
        )

    def forward(self, x):
        one = self.branch3x3_1(x)
        two = chain(self, x, "branch3x3dbl_1", "branch3x3dbl_2")
        branches = [self.branch1x1(x), self.branch3x3_2a(one), self.branch3x3_2b(one)]
        branches += [self.branch3x3dbl_3a(two), self.branch3x3dbl_3b(two)]
        return torch.cat([*branches, self.branch_pool(self.pooled(x))], 1)


class Auxiliary(nn.Module):
    """Only its keys matter: nothing runs it."""

    def __init__(self, classes):
        super().__init__()
        self.conv0, self.conv1 = Unit(768, 128), Unit(128, 768, 5)
        self.fc = nn.Linear(768, classes)


class Inception(nn.Module):
    def __init__(self, fid):
        super().__init__()
        average = "average_inside" if fid else "average_with_zeros"
        classes = 1008 if fid else 1000
        self.Conv2d_1a_3x3 = Unit(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = Unit(32, 32, 3)
        self.Conv2d_2b_3x3 = Unit(32, 64, 3, 1, 1)
        self.Conv2d_3b_1x1 = Unit(64, 80)
        self.Conv2d_4a_3x3 = Unit(80, 192, 3)
        self.Mixed_5b = A(192, 32, average)
        self.Mixed_5c = A(256, 64, average)
        self.Mixed_5d = A(288, 64, average)
        self.Mixed_6a = B(288)
        self.Mixed_6b = C(768, 128, average)
        self.Mixed_6c = C(768, 160, average)
        self.Mixed_6d = C(768, 160, average)
        self.Mixed_6e = C(768, 192, average)
        if not fid:
            self.AuxLogits = Auxiliary(classes)
        self.Mixed_7a = D(768)
        self.Mixed_7b = E(1280, average)
        self.Mixed_7c = E(2048, "max" if fid else average)
        self.fc = nn.Linear(2048, classes)

    def forward(self, images, size=None):
        """[n, 3, h, w] in [0, 1] -> {"pool1", "pool2", "mixed_6e", ...}, each [n, c, h', w']."""
        if size is not None:
            images = F.interpolate(images, (size, size), mode="bilinear", align_corners=False)
        taps = {}
        x = self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(2 * images - 1))
        taps["conv2d_2b"] = self.Conv2d_2b_3x3(x)
        taps["pool1"] = F.max_pool2d(taps["conv2d_2b"], 3, 2)
        taps["conv2d_4a"] = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(taps["pool1"]))
        taps["pool2"] = x = F.max_pool2d(taps["conv2d_4a"], 3, 2)
        for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"):
            taps[f"mixed_{name}"] = x = getattr(self, f"Mixed_{name}")(x)
        return taps


def random_inception(seed, *, fid):
    """Evaluation mode; every weight and running statistic is random and far from its default."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):  # no time for initial values that are overwritten
        model = Inception(fid)
    model = model.to_empty(device="cpu").eval()

    def uniform(tensor, low, high):
        tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
                if module.bias is not None:
                    uniform(module.bias, -0.3, 0.3)
            elif isinstance(module, nn.BatchNorm2d):
                uniform(module.weight, 0.7, 1.5)
                uniform(module.bias, -0.3, 0.3)
                uniform(module.running_mean, -0.5, 0.5)
                uniform(module.running_var, 0.5, 2.0)
                module.num_batches_tracked.fill_(7)
    return model
