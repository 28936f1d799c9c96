"""Products of all pairs of cells, whose gradients a CPU need not transpose a large matrix for.

The gradient with respect to one factor contracts the other matrix over its rows. Autodiff writes
that with the larger one first, which XLA:CPU meets by transposing it, 64 MiB for 4096 x 4096 cells;
with the smaller one first the product takes a third of the time. Other devices do not mind.

Cells are [n, p, c] and [n, q, c] float32. Full precision on every device: what is made of these
products goes through an exp.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import partial

import jax
import jax.numpy as jnp

DEFAULT = "default"
PRECISIONS = (DEFAULT, "float32", "bfloat16")


def precision(name: str) -> AbstractContextManager[None]:
    """Where the networks' products are of a precision of `PRECISIONS`; the ones here never are.

    JAX's own `default_matmul_precision`, which is of the thread and part of what a compiled program
    is found by. `models/winograd.py` sees to it on CPUs, where XLA does not.
    """
    return nullcontext() if name == DEFAULT else jax.default_matmul_precision(name)


_product = partial(jnp.einsum, precision="highest")
_Two = tuple[jax.Array, jax.Array]


@jax.custom_vjp
def inner(a: jax.Array, b: jax.Array) -> jax.Array:
    """a(u) . b(v) for all pairs of cells. [n, p, c], [n, q, c] -> [n, p, q]."""
    return _product("npc,nqc->npq", a, b)


def _inner_fwd(a: jax.Array, b: jax.Array) -> tuple[jax.Array, _Two]:
    return inner(a, b), (a, b)


def _inner_bwd(kept: _Two, g: jax.Array) -> _Two:
    a, b = kept
    return mixed(g, b), gathered(g, a)


inner.defvjp(_inner_fwd, _inner_bwd)


@jax.custom_vjp
def mixed(weights: jax.Array, values: jax.Array) -> jax.Array:
    """sum_v w(u, v) x(v) for every u. [n, p, q], [n, q, d] -> [n, p, d]."""
    return _product("npq,nqd->npd", weights, values)


def _mixed_fwd(weights: jax.Array, values: jax.Array) -> tuple[jax.Array, _Two]:
    return mixed(weights, values), (weights, values)


def _mixed_bwd(kept: _Two, g: jax.Array) -> _Two:
    weights, values = kept
    return inner(g, values), gathered(weights, g)


mixed.defvjp(_mixed_fwd, _mixed_bwd)


def gathered(weights: jax.Array, values: jax.Array) -> jax.Array:
    """sum_u w(u, v) x(u) for every v. [n, p, q], [n, p, d] -> [n, q, d]."""
    if weights.shape[2] < values.shape[2]:
        return _product("npq,npd->nqd", weights, values)
    return _product("npd,npq->ndq", values, weights).swapaxes(1, 2)


@jax.custom_vjp
def squares(cells: jax.Array) -> jax.Array:
    """`inner` of cells with themselves, with one product for the gradient. -> [n, p, p]."""
    return inner(cells, cells)


def _squares_fwd(cells: jax.Array) -> _Two:
    return inner(cells, cells), cells


def _squares_bwd(cells: jax.Array, g: jax.Array) -> tuple[jax.Array]:
    return (mixed(g + g.swapaxes(1, 2), cells),)


squares.defvjp(_squares_fwd, _squares_bwd)


@jax.custom_vjp
def moments(cells: jax.Array) -> jax.Array:
    """sum_u a(u, c) a(u, d) for all pairs of channels. [n, p, c] -> [n, c, c]."""
    return _product("npc,npd->ncd", cells, cells)


def _moments_fwd(cells: jax.Array) -> _Two:
    return moments(cells), cells


def _moments_bwd(cells: jax.Array, g: jax.Array) -> tuple[jax.Array]:
    return (mixed(cells, g + g.swapaxes(1, 2)),)


moments.defvjp(_moments_fwd, _moments_bwd)
