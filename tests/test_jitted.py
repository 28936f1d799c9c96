"""How hard a compiler tries, by how often a program runs."""

import jax
import jax.numpy as jnp
import pytest

from oeft_jax import jitted

LEVEL = "xla_backend_optimization_level"
OLDER = {"xla_cpu_use_fusion_emitters": False}


@pytest.fixture
def given(monkeypatch):
    """The options that `jax.jit` was called with, in order."""
    seen = []
    real = jax.jit

    def jit(function, **options):
        seen.append(options)
        return real(function, **options)

    monkeypatch.setattr(jax, "jit", jit)
    return seen


@pytest.fixture
def least(request):
    """Whether JAX is asked to optimise nothing."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", request.param)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def twice(x):
    return 2 * x


KINDS = {
    "once": (jitted.jit_once, {LEVEL: 0, **OLDER}),
    "often": (jitted.jit_often, {LEVEL: 1}),
}


@pytest.fixture
def asked_anew():
    """Nothing is remembered of what this XLA has, before and after."""
    jitted._has_older_loops.cache_clear()
    yield
    jitted._has_older_loops.cache_clear()


@pytest.mark.parametrize("least", [False], indirect=True)
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_cpu_a_compiler_does_the_less_the_less_a_program_runs(kind, given, least):
    make, options = KINDS[kind]
    program = make(twice, donate_argnums=0)
    assert given[-1] == {"donate_argnums": 0, "compiler_options": options}
    assert program(jnp.float32(3)) == 6


@pytest.mark.parametrize("least", [False], indirect=True)
@pytest.mark.parametrize("kind", KINDS)
def test_an_xla_without_its_older_loops_does_with_its_own(
    kind, given, least, asked_anew, monkeypatch
):
    monkeypatch.setattr(jitted, "OLDER_LOOPS", {"xla_cpu_no_such_loops": True})
    make, options = KINDS[kind]
    program = make(twice)
    assert given[-1] == {"compiler_options": {LEVEL: options[LEVEL]}}
    assert program(jnp.float32(3)) == 6


@pytest.mark.parametrize("least", [False], indirect=True)
@pytest.mark.parametrize("make", [jitted.jit_once, jitted.jit_often])
def test_elsewhere_the_compiler_chooses(make, given, least, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    make(twice)
    assert given == [{"compiler_options": None}]


@pytest.mark.parametrize("least", [True], indirect=True)
def test_a_step_is_not_optimised_where_nothing_is_to_be(given, least):
    jitted.jit_often(twice)
    assert given == [{"compiler_options": None}]
