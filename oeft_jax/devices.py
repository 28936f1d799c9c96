"""Where a list of pairs runs: a mesh over the devices of a process, and several processes."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from oeft_jax._checks import InputError
from oeft_jax.jitted import jit_often

PAIRS = "pairs"  # the mesh axis: one device, one pair
OTHERS_MAY_TAKE = 30 * 24 * 3600  # s; a process that is done waits so long for the others


def pair_mesh(num_pairs: int) -> Mesh:
    """A mesh of this process's devices, no more than there are pairs, along the axis "pairs"."""
    return Mesh(np.array(jax.local_devices()[:num_pairs]), (PAIRS,))


def spread(
    function: Callable, mesh: Mesh, in_specs: Sequence[Any], *, donate: tuple[int, ...] = ()
) -> Callable:
    """The jitted `function` of one pair, run by every device of the mesh on a pair of its own.

    A `vmap` over pairs would make grouped convolutions of convolutions, because every pair has
    weights of its own; here each device runs the program of one pair. Nothing passes between them.

    Args:
      in_specs: for each argument a tree prefix: P("pairs") for what has a leading axis of pairs,
        P() for what every pair shares.
      donate: which arguments may be overwritten.
    Returns:
      A function of the stacked arguments whose results have the leading axis throughout.
    """
    own = P(PAIRS)

    def on_device(*arguments: Any) -> Any:
        mine = jax.tree.map(
            lambda spec, tree: jax.tree.map(lambda leaf: leaf[0], tree) if spec == own else tree,
            tuple(in_specs),
            arguments,
            is_leaf=lambda node: isinstance(node, P),
        )
        return jax.tree.map(lambda leaf: leaf[None], function(*mine))

    # Nothing is reduced over the axis, so there is no replication to check.
    mapped = jax.shard_map(
        on_device, mesh=mesh, in_specs=tuple(in_specs), out_specs=own, check_vma=False
    )
    return jit_often(mapped, donate_argnums=donate)


def stack(trees: Sequence[Any], mesh: Mesh) -> Any:
    """One tree with a leading axis of pairs, tree i on device i; the last one fills the mesh."""
    sharding = NamedSharding(mesh, P(PAIRS))

    def one(*leaves: Any) -> jax.Array:
        first = np.asarray(leaves[0])

        def shard(index: Any) -> np.ndarray:
            return np.asarray(leaves[min(index[0].start or 0, len(leaves) - 1)])[None]

        return jax.make_array_from_callback((mesh.size, *first.shape), sharding, shard)

    return jax.tree.map(one, *trees)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """The tree on every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, P()))


def join(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Makes this process one of several through `jax.distributed`; before any other use of JAX.

    Without arguments JAX recognises the cluster by itself (Slurm, GKE, TPU pods, Open MPI).

    Args:
      coordinator: "host:port" of process 0.
      num_processes: of the whole run.
      process_id: of this one, from 0.
    Raises:
      InputError: no cluster is recognised, or the others cannot be reached.
    """
    try:
        jax.distributed.initialize(
            coordinator, num_processes, process_id, shutdown_timeout_seconds=OTHERS_MAY_TAKE
        )
        jax.process_count()  # every process is here before one of them goes on
    except (ValueError, RuntimeError) as error:
        if coordinator is None:
            raise InputError(
                f"--distributed: no cluster was recognised ({_first_line(error)}); accepted: "
                "inside Slurm, GKE, a TPU pod or Open MPI, or with --coordinator, "
                "--num-processes and --process-id."
            ) from error
        raise InputError(
            f"--coordinator {coordinator}: the processes did not find each other "
            f"({_first_line(error)}); accepted: HOST:PORT of process 0, the same for all of them."
        ) from error


def leave() -> None:
    """Waits until every process is done, then parts from them; does nothing for a single one."""
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


def share(items: Sequence[Any]) -> list[Any]:
    """What this process does of a list: every N-th of it, N the number of processes."""
    return list(items[jax.process_index() :: jax.process_count()])


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0].rstrip(".")
