"""Every network that can be converted, by the name given on the command line."""

from weights_convert import alexnet, inception, lpips, resnet, squeezenet, vgg
from weights_convert.rules import Layout

LAYOUTS: dict[str, tuple[Layout, ...]] = {
    **alexnet.LAYOUTS,
    **inception.LAYOUTS,
    **lpips.LAYOUTS,
    **resnet.LAYOUTS,
    **squeezenet.LAYOUTS,
    **vgg.LAYOUTS,
}
