"""State of a run on disk, through orbax: written aside and renamed, so never half there."""

from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from oeft_jax._checks import InputError

Tree = TypeVar("Tree")


def save(folder: Path, step: int, tree: Any) -> None:
    """Writes the pytree `tree` as `folder`/`step`; older steps are removed after that."""
    options = ocp.CheckpointManagerOptions(max_to_keep=1)
    with ocp.CheckpointManager(folder.absolute(), options=options) as manager:
        manager.save(step, args=ocp.args.StandardSave(jax.tree.map(np.asarray, tree)))


def latest(folder: Path) -> int | None:
    """The step that can be restored, or None."""
    if not folder.is_dir():
        return None
    with ocp.CheckpointManager(folder.absolute()) as manager:
        return manager.latest_step()


def restore(folder: Path, like: Tree) -> Tree:
    """The newest tree under `folder`, with the structure, shapes and dtypes of `like`.

    Leaves that were Python or NumPy values come back as NumPy arrays, JAX arrays as such.

    Raises:
      InputError: nothing there, or it does not fit `like`.
    """
    expected = jax.tree.map(np.asarray, like)
    with ocp.CheckpointManager(folder.absolute()) as manager:
        step = manager.latest_step()
        if step is None:
            raise InputError(f"{folder}: holds no saved state; run without --resume.")
        try:
            tree = manager.restore(step, args=ocp.args.StandardRestore(expected))
        except (ValueError, KeyError, OSError) as error:
            raise InputError(
                f"{folder}: the saved state cannot be used; run with --overwrite."
            ) from error
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True)
    if any(np.shape(value) != old.shape for value, old in pairs):  # orbax lets these pass
        raise InputError(f"{folder}: the saved state cannot be used; run with --overwrite.")

    def as_before(value: Any, old: Any) -> Any:
        return jax.numpy.asarray(value) if isinstance(old, jax.Array) else np.asarray(value)

    return jax.tree.map(as_before, tree, like)


class Store:
    """Named states of one run under a folder; without a folder it keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def save(self, name: str, step: int, tree: Any) -> None:
        """Saves `tree` under `name`, replacing what was there."""
        if self.folder is not None and latest(self.folder / name) != step:
            save(self.folder / name, step, tree)

    def load(self, name: str, like: Tree) -> Tree:
        """What was saved under `name`, or `like` itself when nothing was."""
        if self.folder is None or latest(self.folder / name) is None:
            return like
        return restore(self.folder / name, like)
