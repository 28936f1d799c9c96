"""Every network that can be converted, by the name given on the command line."""

from weights_convert import (
    alexnet,
    inception,
    lpips,
    pggan,
    resnet,
    squeezenet,
    stylegan,
    stylegan2,
    vgg,
    vit,
)
from weights_convert.rules import Layout

LAYOUTS: dict[str, tuple[Layout, ...]] = {
    **alexnet.LAYOUTS,
    **inception.LAYOUTS,
    **lpips.LAYOUTS,
    **pggan.LAYOUTS,
    **resnet.LAYOUTS,
    **squeezenet.LAYOUTS,
    **stylegan.LAYOUTS,
    **stylegan2.LAYOUTS,
    **vgg.LAYOUTS,
    **vit.LAYOUTS,
}
