"""The Vision Transformer against an independent PyTorch one, through files of DINO's layout."""

import jax
import numpy as np
import pytest
from converted import converted, expect_parity, images_of

from oeft_jax import golden
from oeft_jax._checks import InputError
from oeft_jax.models.backbone import backbone
from oeft_jax.models.vit import ViT, bicubic_matrix
from oeft_jax.weights import find_weights, load_weights
from weights_convert.convert import convert

torch = pytest.importorskip("torch")
from torch_vit import ViT as TorchViT  # noqa: E402
from torch_vit import random_vit  # noqa: E402


@pytest.mark.parametrize("name", ["dino_vits8", "dino_vitb16"])
@pytest.mark.parametrize("size", [(224, 224), (256, 256), (75, 54)])
def test_every_tap_equals_torch(name, size):
    small = "vits" in name
    reference = random_vit(0, width=384 if small else 768, depth=2, patch=8 if small else 16)
    network, config, params = converted(name, reference.state_dict())
    net = backbone(network, config)
    expect_parity(reference, net, params, images_of(*size), least_spread=0.1)


@pytest.mark.parametrize(("cells", "others"), [(28, 32), (28, 9), (14, 16), (3, 1)])
def test_positions_are_scaled_as_torch_scales(cells, others):
    values = np.random.default_rng(0).normal(size=(1, 1, cells, 1)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(values), scale_factor=((others + 0.1) / cells, 1), mode="bicubic"
    )
    matrix = bicubic_matrix(cells, others)
    np.testing.assert_allclose(matrix @ values[0, 0, :, 0], expected[0, 0, :, 0], atol=2e-6)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)


def test_a_file_becomes_weights_for_the_judge_alone(tmp_path):
    file, out = tmp_path / "dino.pth", tmp_path / "dino.safetensors"
    torch.save(random_vit(1, depth=1).state_dict(), file)
    assert convert("dino_vits8", file, out).config == {
        "width": 384, "depth": 1, "patch": 8, "grid": 28
    }  # fmt: skip
    golden.check(load_weights(out))
    assert find_weights(str(out), "judge").network == "vit"
    with pytest.raises(InputError, match="a 'vit' network, which cannot serve as features"):
        find_weights(str(out), "features")
    with pytest.raises(InputError, match=r"this looks like dino_vits8 \(DINO's ViT-S/8\)"):
        convert("dino_vits16", file, out)


@pytest.mark.parametrize(
    ("width", "patch", "count"), [(384, 8, 21_670_272), (384, 16, 21_665_664), (768, 8, 85_807_872)]
)
def test_published_sizes(width, patch, count):
    """The numbers of parameters that DINO's authors give (21 and 85 million) to the last one."""
    with torch.device("meta"):
        theirs = sum(p.numel() for p in TorchViT(width, 12, patch).parameters())
    shapes = golden.shapes("vit", {"width": width, "patch": patch, "grid": 224 // patch})
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == theirs == count


def test_computes_no_further_than_the_deepest_tap():
    net = backbone("vit", {"width": 64, "depth": 3})
    shapes = jax.eval_shape(lambda key: net.init(key, ("keys1",)), jax.random.key(0))
    assert {name for name in shapes if name.startswith("block")} == {"block0", "block1"}
    assert "norm" not in shapes


@pytest.mark.parametrize(
    ("fields", "size", "message"),
    [
        ({"width": 100}, 32, "width 100: accepted: a multiple of 64"),
        ({"width": 64}, 7, "images of 7 x 7 pixels: accepted: 8 or more"),
    ],
)
def test_what_cannot_be_is_refused(fields, size, message):
    with pytest.raises(InputError, match=message):
        ViT(**fields).init(jax.random.key(0), np.zeros((1, size, size, 3), np.float32), ("class",))
