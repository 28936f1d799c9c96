"""Settings and fixtures that every test shares."""

import gc
import os
from pathlib import Path

# XLA takes far longer to compile most of these programs than to run them; read when JAX is imported,
# by programs that tests start too. A module whose subject is a fast program asks for `full_compile`.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from xla_flags import FLAGS

os.environ.setdefault("XLA_FLAGS", FLAGS)  # read when the first program is compiled
# Tracing makes millions of objects, and most stay: looking through them is a twentieth of the tests' time.
gc.set_threshold(50_000, 20, 100)


@pytest.fixture(scope="session", autouse=True)
def no_rank_promotion():
    """A silent [n] + [n, 1] is an error in every test."""
    before = jax.config.jax_numpy_rank_promotion
    jax.config.update("jax_numpy_rank_promotion", "raise")
    yield
    jax.config.update("jax_numpy_rank_promotion", before)


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory):
    """Programs that several tests compile alike, in whichever process, are compiled once."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # which the processes have in common
    jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def full_compile():
    """For modules that test kernels or what a program needs: optimised as for users."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def quick_random():
    """For modules that draw many arrays: a generator that is a single instruction to compile."""
    before = jax.config.values["jax_default_prng_impl"]
    jax.config.update("jax_default_prng_impl", "rbg")
    yield
    jax.config.update("jax_default_prng_impl", before)


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def x64():
    """Double precision inside one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def shared_data():
    """The folder of real images and weights, which is not part of the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("OEFT_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}; set OEFT_DATA to the folder shared/data")
    return folder
