"""Independent PyTorch networks with the published key names, as the oracles of the ports.

Written from the published layouts, not from our modules. Every network returns its taps by name,
[n, c, h, w] each, for images [n, 3, h, w] in [0, 1].
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

VGG_DEPTHS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
VGG_WIDTHS = (64, 128, 256, 512, 512)
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def per_channel(values, like):
    return torch.tensor(values, dtype=like.dtype).view(1, 3, 1, 1)


def imagenet(images):
    return (images - per_channel(MEAN, images)) / per_channel(DEVIATION, images)


def bgr255(images, mean):
    """RGB in [0, 1] to BGR in [0, 255] minus the mean of blue, green and red."""
    return torch.flip(images, (1,)) * 255 - per_channel(mean, images)


def run(layers, x, taps):
    """No further than the last of `taps`: index of a layer -> name."""
    found = {}
    for index, layer in enumerate(layers[: max(taps) + 1]):
        x = layer(x)
        if index in taps:
            found[taps[index]] = x
    return found


def random_weights(model, seed):
    """Evaluation mode; every weight and bias random, so that the signal keeps its size."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
                module.bias.uniform_(-0.3, 0.3, generator=generator)
    return model.eval()


def dense(*sizes):
    """Linear layers at 0, 3, 6: torchvision's place for them in VGG; 1, 4, 6 in AlexNet."""
    first, second, third = (nn.Linear(*pair) for pair in pairwise(sizes))
    return first, second, third


class VGG(nn.Module):
    """torchvision's; `classifier_width` narrows the classifier, which nothing here runs."""

    def __init__(self, depth, classifier_width=4):
        super().__init__()
        layers, self.taps, inputs = [], {}, 3
        for block, (count, width) in enumerate(zip(VGG_DEPTHS[depth], VGG_WIDTHS, strict=True), 1):
            for place in range(1, count + 1):
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
                self.taps[len(layers) - 1] = f"relu{block}_{place}"
                inputs = width
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        a, b, c = dense(512 * 49, classifier_width, classifier_width, 1000)
        blank = nn.Identity
        self.classifier = nn.Sequential(a, blank(), blank(), b, blank(), blank(), c)

    def forward(self, images):
        return run(self.features, imagenet(images), self.taps)


class NamedVGG19(nn.Module):
    """Caffe's, with layers by name: "conv1_1.weight"."""

    def __init__(self):
        super().__init__()
        inputs = 3
        for block, (count, width) in enumerate(zip(VGG_DEPTHS[19], VGG_WIDTHS, strict=True), 1):
            for place in range(1, count + 1):
                setattr(self, f"conv{block}_{place}", nn.Conv2d(inputs, width, 3, padding=1))
                inputs = width

    def forward(self, images):
        x = bgr255(images, (0.40760392 * 255, 0.45795686 * 255, 0.48501961 * 255))
        taps = {}
        for name, layer in self.named_children():
            block, place = name.removeprefix("conv").split("_")
            if place == "1" and block != "1":
                x = F.max_pool2d(x, 2, 2)
            taps[f"relu{block}_{place}"] = x = torch.relu(layer(x))
        return taps


def normalised_vgg19(num_convolutions):
    """(layers whose keys are numbers, index -> tap): reflection padding, ceil-mode pooling."""
    layers, taps, inputs = [nn.Conv2d(3, 3, 1)], {}, 3
    with torch.no_grad():
        layers[0].weight.copy_(255 * torch.eye(3).flip(0).view(3, 3, 1, 1))
        layers[0].bias.copy_(torch.tensor([-103.939, -116.779, -123.68]))
    for block, (count, width) in enumerate(zip(VGG_DEPTHS[19], VGG_WIDTHS, strict=True), 1):
        for place in range(1, count + 1):
            if len(taps) == num_convolutions:
                return nn.Sequential(*layers), taps
            if block > 1 and place == 1:
                layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
            layers += [nn.ReflectionPad2d(1), nn.Conv2d(inputs, width, 3), nn.ReLU()]
            taps[len(layers) - 1] = f"relu{block}_{place}"
            inputs = width
    return nn.Sequential(*layers), taps


class NormalisedVGG19(nn.Module):
    def __init__(self, num_convolutions):
        super().__init__()
        self.layers, self.taps = normalised_vgg19(num_convolutions)

    def forward(self, images):
        return run(self.layers, images, self.taps)


class AlexNet(nn.Module):
    def __init__(self, classifier_width=4):
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
            nn.MaxPool2d(3, 2),
        )
        a, b, c = dense(256 * 36, classifier_width, classifier_width, 1000)
        blank = nn.Identity
        self.classifier = nn.Sequential(blank(), a, blank(), blank(), b, blank(), c)

    def forward(self, images):
        names = {1: "relu1", 4: "relu2", 7: "relu3", 9: "relu4", 11: "relu5"}
        return run(self.features, imagenet(images), names)


class Fire(nn.Module):
    def __init__(self, inputs, squeezed, expanded):
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x):
        x = torch.relu(self.squeeze(x))
        return torch.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))


FIRES = [(128, 16, 64), (128, 32, 128), (256, 32, 128), (256, 48, 192), (384, 48, 192)]
FIRES += [(384, 64, 256), (512, 64, 256)]  # all but the first


class SqueezeNet(nn.Module):
    def __init__(self, version):
        super().__init__()

        def pool():
            return nn.MaxPool2d(3, 2, ceil_mode=True)

        later = [Fire(*sizes) for sizes in FIRES]
        if version == "1_0":
            layers = [nn.Conv2d(3, 96, 7, stride=2), nn.ReLU(), pool(), Fire(96, 16, 64)]
            layers += [*later[:2], pool(), *later[2:6], pool(), *later[6:]]
        else:
            layers = [nn.Conv2d(3, 64, 3, stride=2), nn.ReLU(), pool(), Fire(64, 16, 64)]
            layers += [*later[:1], pool(), *later[1:3], pool(), *later[3:]]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Identity(), nn.Conv2d(512, 1000, 1), nn.ReLU())

    def taps(self):
        fires = [i for i, layer in enumerate(self.features) if isinstance(layer, Fire)]
        return {1: "relu1", **{index: f"fire{name}" for name, index in enumerate(fires, 2)}}

    def forward(self, images):
        found = run(self.features, imagenet(images), self.taps())
        return {**found, "logits": self.classifier(found["fire9"])}


class CaffeSqueezeNet(SqueezeNet):
    """As its authors published it: other preprocessing, and the last convolution is padded."""

    def __init__(self):
        super().__init__("1_0")
        self.classifier[1].padding = (1, 1)

    def forward(self, images):
        found = run(self.features, bgr255(images, (104, 117, 123)), self.taps())
        return {**found, "logits": self.classifier(found["fire9"])}

    def caffe_state(self):
        """The weights under Caffe's names."""
        names = {"features.0": "conv1", "classifier.1": "conv_final"}
        parts = {"squeeze": "conv1x1_1", "expand1x1": "conv1x1_2", "expand3x3": "conv3x3_2"}
        for fire, index in enumerate((3, 4, 5, 7, 8, 9, 10, 12), 2):
            for part, caffe in parts.items():
                names[f"features.{index}.{part}"] = f"fire{fire}/{caffe}"
        state = {}
        for key, value in self.state_dict().items():
            layer, _, kind = key.rpartition(".")
            state[f"{names[layer]}/{kind}"] = value
        return state


def lpips(heads, network, taps, images_a, images_b):
    """LPIPS 0.1 of images in [-1, 1]; `heads` are (1, c, 1, 1), `network` takes [0, 1].

    The scaling is LPIPS's own, so the network's has to be undone first.
    """
    shift, scale = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)

    def features(images):
        scaled = (images - per_channel(shift, images)) / per_channel(scale, images)
        back = scaled * per_channel(DEVIATION, images) + per_channel(MEAN, images)
        found = network(back)
        return [found[tap] for tap in taps]

    total = 0
    for head, a, b in zip(heads, features(images_a), features(images_b), strict=True):
        a = a / (torch.sqrt((a**2).sum(1, keepdim=True)) + 1e-10)
        b = b / (torch.sqrt((b**2).sum(1, keepdim=True)) + 1e-10)
        total = total + F.conv2d((a - b) ** 2, head).mean((1, 2, 3))
    return total
