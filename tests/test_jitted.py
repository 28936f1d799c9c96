"""How hard a compiler tries, by how often a program runs."""

import jax
import jax.numpy as jnp
import pytest

from oeft_jax import jitted

LEVEL = "xla_backend_optimization_level"


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


@pytest.mark.parametrize("least", [False], indirect=True)
@pytest.mark.parametrize(("make", "level"), [(jitted.jit_once, 0), (jitted.jit_often, 1)])
def test_on_a_cpu_the_level_is_less_the_less_a_program_runs(make, level, given, least):
    program = make(twice, donate_argnums=0)
    assert given == [{"donate_argnums": 0, "compiler_options": {LEVEL: level}}]
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
