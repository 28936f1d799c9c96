"""What a command sets for its whole process, before anything is computed. Not for the library."""

import jax

from oeft_jax import compile_cache, huge_pages


def prepare() -> None:
    """Memory is kept within the run, and compiled programs between runs."""
    keep_memory()
    compile_cache.use()


def keep_memory() -> None:
    """Huge pages, and CPU programs run in the main thread, whose memory it is that is kept.

    The loops here wait for every step, so nothing is lost by that. It changes nothing where a
    device is in use already.
    """
    huge_pages.use()
    jax.config.update("jax_cpu_enable_async_dispatch", False)
