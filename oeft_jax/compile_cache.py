"""Compiled programs kept between runs, in the user's cache folder."""

import jax
from jax.experimental.compilation_cache import compilation_cache

from oeft_jax.weights import cache_folder

MAX_BYTES = 2**31  # the least recently used programs go first


def use() -> None:
    """Lets JAX keep what it compiles, so that the next run of the same sizes starts at once.

    For commands, not for the library: it changes a setting of the whole process. A folder that the
    user gave JAX (JAX_COMPILATION_CACHE_DIR) is kept. An entry that does not fit the machine or
    the version of JAX is never used.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
        jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
        # A run has some 160 small programs, which together take as long to compile as a large one.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        compilation_cache.reset_cache()  # what was compiled before fixed it to none
