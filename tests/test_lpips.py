"""LPIPS against plain loops, against PyTorch with every trunk, and the published heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from converted import converted, images_of, nchw

from oeft_jax import golden
from oeft_jax._checks import InputError
from oeft_jax.models import lpips
from oeft_jax.models.backbone import backbone
from oeft_jax.weights import load_weights
from weights_convert.convert import convert

TOLERANCE = 1e-4  # relative; float32 features of two libraries


@pytest.fixture(scope="module")
def nets():
    torch = pytest.importorskip("torch")
    import torch_small_nets

    torch.set_num_threads(2)
    return torch_small_nets


def random_features(seed=0, sizes=((5, 7, 6), (3, 4, 9))):
    rng = np.random.default_rng(seed)
    return {f"t{i}": rng.normal(size=(2, *size)).astype("f4") for i, size in enumerate(sizes)}


def random_heads(features, seed=3):
    rng = np.random.default_rng(seed)
    return {tap: rng.uniform(0, 1, v.shape[-1]).astype("f4") for tap, v in features.items()}


def by_loops(heads, a, b):
    """LPIPS of one pair, place by place in float64."""
    total = 0.0
    for tap, head in heads.items():
        values = []
        for y, x in np.ndindex(*a[tap].shape[:2]):
            one, other = a[tap][y, x].astype("f8"), b[tap][y, x].astype("f8")
            one, other = (
                one / (np.linalg.norm(one) + 1e-10),
                other / (np.linalg.norm(other) + 1e-10),
            )
            values.append(sum(w * (p - q) ** 2 for w, p, q in zip(head, one, other, strict=True)))
        total += np.mean(values)
    return total


@pytest.mark.parametrize("run", [lambda f: f, jax.jit])
def test_distance_equals_plain_loops(run):
    a, b = random_features(1), random_features(2)
    a["t0"][:, 1, 2] = 0  # a place where nothing fired
    heads = random_heads(a)
    expected = [
        by_loops(heads, {t: v[n] for t, v in a.items()}, {t: v[n] for t, v in b.items()})
        for n in range(2)
    ]
    found = run(lpips.distance)(heads, a, b)
    assert found.shape == (2,)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_it_is_zero_for_equals_symmetric_and_blind_to_the_length_of_features():
    a, b = random_features(1), random_features(2)
    heads = random_heads(a)
    assert (lpips.distance(heads, a, a) == 0).all()
    np.testing.assert_allclose(lpips.distance(heads, a, b), lpips.distance(heads, b, a), rtol=1e-6)
    longer = {tap: 3.7 * value for tap, value in a.items()}
    found = lpips.distance(heads, longer, b)
    np.testing.assert_allclose(found, lpips.distance(heads, a, b), rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_gradient_is_finite_where_features_are_constant(value):
    a = {"t": jnp.full((1, 3, 3, 4), value)}
    heads = {"t": jnp.ones(4)}
    gradient = jax.grad(lambda a: jnp.sum(lpips.distance(heads, a, random_like(a))))(a)
    assert jnp.isfinite(gradient["t"]).all()


def random_like(features):
    rng = np.random.default_rng(5)
    return {tap: rng.normal(size=value.shape).astype("f4") for tap, value in features.items()}


TRUNKS = {
    "vgg": lambda nets: nets.VGG(16),
    "alex": lambda nets: nets.AlexNet(),
    "squeeze": lambda nets: nets.SqueezeNet("1_1"),
}


@pytest.mark.parametrize("trunk", sorted(TRUNKS))
def test_distance_of_images_equals_torch_with_lpips_own_scaling(nets, trunk):
    import torch

    described = lpips.TRUNKS[trunk]
    reference = nets.random_weights(TRUNKS[trunk](nets), 0)
    generator = torch.Generator().manual_seed(1)
    state = {
        f"lin{k}.model.1.weight": torch.rand((1, width, 1, 1), generator=generator)
        for k, width in enumerate(described.channels.values())
    }
    a, b = images_of(67, 82, seed=1, count=2), images_of(67, 82, seed=2, count=2)
    with torch.no_grad():
        pair = [torch.from_numpy(nchw(2 * images - 1)) for images in (a, b)]
        expected = nets.lpips(state.values(), reference, tuple(described.channels), *pair).numpy()

    network, config, heads = converted(f"lpips_{trunk}", state)
    assert (network, config) == ("lpips", {"trunk": trunk})
    network, config, params = converted(described.network, reference.state_dict())
    apply = backbone(network, config).apply
    distance = jax.jit(lambda h, p, a, b: lpips.image_distance(h, apply, p, a, b))
    found = distance(heads, params, a, b)
    assert (expected > 0.1).all()
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE)


@pytest.mark.parametrize("trunk", sorted(TRUNKS))
def test_published_heads_convert_unchanged_and_weigh_nothing_negatively(
    shared_data, tmp_path, trunk
):
    torch = pytest.importorskip("torch")
    file = shared_data / "w_lpips" / "v0.1" / f"{trunk}.pth"
    convert(f"lpips_{trunk}", file, tmp_path / "heads.safetensors")
    weights = load_weights(tmp_path / "heads.safetensors")
    golden.check(weights)
    state = torch.load(file, map_location="cpu", weights_only=True)
    assert len(state) == len(weights.params)
    for k, tap in enumerate(lpips.TRUNKS[trunk].channels):
        head = np.asarray(weights.params[tap])
        np.testing.assert_array_equal(head, state[f"lin{k}.model.1.weight"].numpy().ravel())
        assert head.min() >= 0
        assert head.max() > 0


def test_fingerprint_notices_two_exchanged_channels():
    rng = np.random.default_rng(0)
    heads = {tap: rng.uniform(0, 1, v.shape).astype("f4") for tap, v in lpips.init("vgg").items()}
    before = golden.fingerprint("lpips", {"trunk": "vgg"}, heads)
    for tap, head in heads.items():
        order = np.arange(head.size)
        order[[1, 5]] = 5, 1
        after = golden.fingerprint("lpips", {"trunk": "vgg"}, {**heads, tap: head[order]})
        assert np.abs(after - before).max() > 2 * golden.TOLERANCE


def test_unknown_trunk_is_refused():
    with pytest.raises(InputError, match="trunk='resnet' is not known; accepted: alex, squeeze, v"):
        golden.shapes("lpips", {"trunk": "resnet"})
