"""Compiled programs are kept for the next process, where the user wants them."""

import os
import subprocess
import sys

import jax

from oeft_jax import compile_cache

PROGRAM = """
import jax, jax.numpy as jnp
from oeft_jax import compile_cache
compile_cache.use()
jax.jit(lambda x: jnp.sin(x) @ x.T)(jnp.ones((5, 7))).block_until_ready()
"""


def run(folder, **environment):
    kept = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment = {**kept, "OEFT_JAX_CACHE": str(folder), **environment}
    subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=True)


def test_the_smallest_programs_are_kept_and_found_again(tmp_path):
    run(tmp_path)
    first = sorted((tmp_path / "compiled").glob("*-cache"))
    assert first
    run(tmp_path)
    assert sorted((tmp_path / "compiled").glob("*-cache")) == first


def test_folder_that_jax_was_given_is_kept(tmp_path):
    theirs = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "theirs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    run(tmp_path / "ours", **theirs)
    assert not (tmp_path / "ours").exists()
    assert list((tmp_path / "theirs").glob("*-cache"))


def test_import_changes_nothing():
    code = "import jax; from oeft_jax import compile_cache, translate, sample; "
    code += "assert jax.config.jax_compilation_cache_dir is None"
    kept = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    subprocess.run([sys.executable, "-c", code], env=kept, check=True)
    before = jax.config.jax_compilation_cache_dir
    compile_cache.use()
    assert jax.config.jax_compilation_cache_dir == before  # the suite's own
