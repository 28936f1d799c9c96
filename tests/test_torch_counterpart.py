"""What the benchmarks compare with computes the same: losses and gradients, term by term."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oeft_jax import correspondence, loss_terms
from oeft_jax.augment import Geometric, Photometric, geometric, photometric
from oeft_jax.composition import Latents
from oeft_jax.config import CorrespondenceConfig, InversionConfig
from oeft_jax.models.backbone import backbone, generator
from oeft_jax.objective import make_goal, make_objective

torch = pytest.importorskip("torch")
torch_augment = pytest.importorskip("benchmarks.torch_augment")
torch_cft = pytest.importorskip("benchmarks.torch_cft")
torch_inversion = pytest.importorskip("benchmarks.torch_inversion")

SIZE, GRID = 32, 8
NETWORK = {"depths": [2, 1, 2, 1], "widths": [3, 4, 5, 6]}
VGG = backbone("vgg", NETWORK)
CPU = torch.device("cpu")
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
TOLERANCE = 1e-6  # both sides in float64
CFT = CorrespondenceConfig(
    image_size=SIZE,
    grid=GRID,
    taps=("relu1_2", "relu2_1", "relu4_1"),  # one larger than the grid, one smaller
    gram_taps=("relu1_1", "relu3_2"),
    contextual_taps=("relu2_1", "relu4_1"),
    num_queries=20,
    prior=0.6,
    layout=0.8,
    lambda_contrastive=0.7,
    lambda_perceptual=1.3,
    lambda_contextual=0.9,
    lambda_local_structure=0.8,
)
MGI = InversionConfig(perceptual_tap="relu2_1", l2=1.2, perceptual=0.3)
LAYER, NUM = 3, 4

pytestmark = pytest.mark.usefixtures("x64")
layouts = pytest.mark.parametrize("layout", LAYOUTS)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """PyTorch's threads wait in vain for arrays this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random_params(init, seed):
    """No zeros, so that biases count; float64."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        fan_in = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 25
        return rng.normal(0, (2 / fan_in) ** 0.5, leaf.shape)

    return jax.tree.map(draw, jax.eval_shape(init, jax.random.key(0)))


def pictures(number):
    return np.random.default_rng(3).random((number, 1, SIZE, SIZE, 3))


def assert_close(ours, theirs):
    """Relative to the largest entry."""
    theirs = np.asarray(theirs)
    assert ours.dtype == theirs.dtype == np.float64
    assert np.abs(ours).max() > 0
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE * np.abs(ours).max())


def kernel_of(tensor):
    return tensor.detach().permute(2, 3, 1, 0).numpy()


def draws(key, source, target, augment):
    """What our loss draws from its key: the queries and, if asked for, the augmented pair."""
    keys = jax.random.split(key, 3)
    queries = jax.random.permutation(keys[2] if augment else key, GRID**2)[: CFT.num_queries]
    if not augment:
        return (queries,)
    return (
        queries,
        photometric(keys[0], source, Photometric()),
        geometric(keys[1], target, Geometric()),
    )


@pytest.fixture(
    scope="module",
    params=[(True, "patch", "rms"), (False, "overlap", "channels")],
    ids=["augmented", "alone"],
)
def fine_tuning(request):
    """Terms and gradients of our loss, and what it was given besides weights and pictures."""
    augment, warp, scale = request.param
    config = dataclasses.replace(CFT, augment=augment, warp=warp, layer_scale=scale)
    with jax.enable_x64(True):
        taps = tuple({*CFT.taps, *CFT.gram_taps, *CFT.contextual_taps})
        params = random_params(lambda key: VGG.init(key, taps), 0)
        source, target = (jnp.asarray(picture) for picture in pictures(2))
        optimizer = correspondence.default_optimizer(config)
        state, pair = correspondence.init(
            params, source, target, backbone=VGG, config=config, optimizer=optimizer
        )
        moved = random_params(lambda key: VGG.init(key, taps), 1)  # the two copies differ
        tuned = {"source": state.params["source"], "target": jax.tree.map(jnp.asarray, moved)}
        losses = loss_terms.default_losses(config)
        loss_fn = jax.jit(
            jax.value_and_grad(correspondence.make_loss(VGG, config, losses), has_aux=True)
        )
        key = jax.random.key(5)
        (_, (terms, _)), grads = loss_fn(tuned, pair, key)
        given = jax.jit(draws, static_argnums=3)(key, source, target, config.augment)
        return config, params, moved, terms, grads, [np.asarray(value) for value in given]


@layouts
def test_fine_tuning_has_our_terms_and_gradients(fine_tuning, layout):
    config, params, moved, terms, grads, (positives, *bent) = fine_tuning
    layout = LAYOUTS[layout]
    tuned, pair = torch_cft.init(params, *pictures(2), config=config, device=CPU, layout=layout)
    tuned = tuned._replace(target=torch_cft.vgg_weights(moved, CPU, layout, tuned=True))
    bent = torch_cft.Bent(*(torch_cft.to_tensor(x, CPU, layout) for x in bent)) if bent else None
    found = torch_cft.make_loss(config)(tuned, pair, bent, torch.tensor(positives))
    assert set(found) == set(terms)
    for name, value in terms.items():
        assert_close(value, found[name].detach().numpy())
    sum(found.values()).backward()
    for copy in ("source", "target"):
        weights = getattr(tuned, copy)
        assert set(weights) == set(grads[copy])
        for name, (kernel, bias) in weights.items():
            if kernel.grad is None:  # deeper than the taps of this copy
                assert not np.any(grads[copy][name]["kernel"])
                continue
            assert_close(grads[copy][name]["kernel"], kernel_of(kernel.grad))
            assert_close(grads[copy][name]["bias"], bias.grad.numpy())


@pytest.fixture(scope="module")
def inverting():
    """Terms and gradients of our objective for one hypothesis of a PGGAN."""
    with jax.enable_x64(True):
        config = {"resolution": 16, "z_dim": 6, "fmap_base": 64, "fmap_max": 8}
        net = generator("pggan", config)
        params = random_params(net.init, 0)
        phi = random_params(lambda key: VGG.init(key, (MGI.perceptual_tap,)), 1)
        rng = np.random.default_rng(2)
        warped = rng.random((8, 8, 3))
        latents = Latents(
            jnp.asarray(rng.normal(size=(NUM, 6))),
            jnp.asarray(rng.normal(size=(NUM, net.channels(LAYER)))),
            jnp.zeros((0, 6)),
        )
        goal = make_goal(warped, net, params, phi, backbone=VGG, config=MGI)
        objective = make_objective(net, VGG, MGI)
        plan = ((LAYER, NUM),)

        def loss(latents):
            losses, terms, _ = objective((latents,), goal, plan)
            return losses[0], terms

        (_, terms), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(latents)
        return params, phi, warped, latents, terms, grads


@layouts
@pytest.mark.parametrize("batched", [False, True], ids=["one by one", "batched"])
def test_inversion_has_our_terms_and_gradients(inverting, layout, batched):
    params, phi, warped, latents, terms, grads = inverting
    layout = LAYOUTS[layout]
    net = torch_inversion.generator(params, CPU, layout)
    goal = torch_inversion.make_goal(warped, phi, config=MGI, device=CPU, layout=layout)
    theirs = torch_inversion.init(*(np.asarray(x) for x in latents[:2]), CPU)
    maps = torch_inversion.compose(net, theirs, LAYER, batched=batched, layout=layout)
    found = torch_inversion.objective(torch_inversion.tail(net, maps, LAYER), goal, MGI)
    assert set(found) == set(terms)
    for name, value in terms.items():
        assert_close(value[0], found[name].detach().numpy())
    sum(found.values()).backward()
    assert_close(grads.codes, theirs.codes.grad.numpy())
    assert_close(grads.importance, theirs.importance.grad.numpy())


@pytest.mark.parametrize("augment", [True, False])
def test_steps_lower_the_loss_and_move_both_copies(augment):
    config = dataclasses.replace(CFT, augment=augment)
    params = random_params(lambda key: VGG.init(key, ("relu4_1",)), 0)
    tuned, pair = torch_cft.init(params, *pictures(2), config=config, device=CPU)
    before = [leaf.detach().clone() for leaf in torch_cft.leaves(tuned)]
    torch.manual_seed(0)
    losses = [step() for step in [torch_cft.make_step(tuned, pair, config)] * 30]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    after = torch_cft.leaves(tuned)
    assert all(bool((a != b).any()) for a, b in zip(before, after, strict=True))


def test_inversion_steps_lower_the_loss(inverting):
    params, phi, warped, latents, _, _ = inverting
    net = torch_inversion.generator(params, CPU, torch.contiguous_format)
    goal = torch_inversion.make_goal(warped, phi, config=MGI, device=CPU)
    theirs = torch_inversion.init(*(np.asarray(x) for x in latents[:2]), CPU)
    step = torch_inversion.make_step(net, theirs, goal, MGI, LAYER, batched=True)
    losses = [step() for _ in range(30)]
    assert losses[-1] < 0.95 * losses[0]


def test_augmentation_is_of_our_kinds():
    torch.manual_seed(0)
    image = torch_cft.to_tensor(pictures(1)[0], CPU, torch.contiguous_format)
    smooth = torch.nn.functional.interpolate(image[..., :4, :4], (SIZE, SIZE), mode="bicubic")
    smooth = smooth.clamp(0, 1)
    for change in (torch_augment.photometric, torch_augment.geometric):
        found = change(smooth)
        assert found.shape == smooth.shape
        assert bool(((found >= 0) & (found <= 1)).all())
        difference = float((found - smooth).abs().mean())
        assert 0.005 < difference < 0.3
    flat = torch.full_like(smooth, 0.5)
    torch.testing.assert_close(torch_augment.geometric(flat), flat)  # it moves, it does not colour


def test_hue_turns_keep_grey_and_come_back():
    grey = torch.full((1, 3, 2, 2), 0.4, dtype=torch.float64)
    turn = torch_augment.hue_matrix(0.3, grey)
    torch.testing.assert_close(torch.einsum("ij,njhw->nihw", turn, grey), grey, atol=2e-3, rtol=0)
    back = torch_augment.hue_matrix(-0.3, grey) @ turn
    torch.testing.assert_close(back, torch.eye(3, dtype=back.dtype), atol=1e-6, rtol=0)
