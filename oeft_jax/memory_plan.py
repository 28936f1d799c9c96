"""How much memory every stage of a run needs at its peak, before it runs.

The numbers come from the compiled programs for the chosen sizes. Only shapes are passed, so nothing
is allocated, and the run then uses the same programs: nothing is compiled twice.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from oeft_jax import pipeline, tuning
from oeft_jax.config import Config
from oeft_jax.jitted import quick
from oeft_jax.pipeline import Parts
from oeft_jax.products import DEFAULT, precision
from oeft_jax.refine import give_up_step, tried_first

MIB = 2**20
SCRATCH = 1.12  # XLA's figures leave out kernels' own scratch; measured on a CPU, at most 12 %
PIXEL = 160  # bytes for each pixel of the finished picture; measured, 151 at most
RUNTIME = 176 * MIB  # nor threads, the allocator and what libraries pack; 160 MiB were measured
COMPILED_AT_ONCE = 2  # programs; a compiler rests while another program is traced


class Need(NamedTuple):
    """Memory of one stage at its peak."""

    stage: str
    bytes: int


class Call(NamedTuple):
    """One call of a compiled function in a run."""

    stage: str
    program: Any  # result of `jax.jit`
    arguments: tuple[Any, ...]  # as it takes them; a shape does for an array
    beside: Any = ()  # tree of what else is alive meanwhile
    precision: str = DEFAULT  # of the networks' products
    times: int = 1  # that a stage makes what the program makes, at most


def needed(call: Call | Need, *, trial: bool = False) -> Need:
    """Memory of a call at its peak. Compiles the function, and a later call uses that.

    Args:
      call: or what is known to be needed without compiling.
      trial: the program will not run; on a CPU it is compiled faster, to slower code.
    """
    if isinstance(call, Need):
        return call
    options = quick() if trial else None  # memory is settled before machine code is made
    with precision(call.precision):
        found = call.program.lower(*call.arguments).compile(options).memory_analysis()
    made = 0  # a backend that does not say counts as needing nothing
    if found is not None:
        made = found.output_size_in_bytes - found.alias_size_in_bytes
        made += found.temp_size_in_bytes + found.generated_code_size_in_bytes
    # All arguments are alive, though XLA counts only those that the function reads.
    alive = size_of((call.arguments, call.beside))
    return Need(call.stage, int((alive + made * call.times) * SCRATCH) + RUNTIME)


def size_of(tree: Any) -> int:
    """Bytes of all arrays in a tree of arrays or shapes."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype")]
    return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def stage_1(config: Config, parts: Parts) -> tuple[Call, ...]:
    """The fine-tuning step, where there is one, what begins it, and the warp."""
    begin, made = _beginning(config, parts), pipeline.programs_of(config, parts)
    state, pair = _begun(begin)
    warp = (state.params, pair)
    others = (begin, Call("final warp", made.warp, warp, state.opt_state, config.precision))
    if not config.correspondence.steps:
        return others
    key = jax.eval_shape(lambda: pipeline.tuning_key(config))
    step = Call("correspondence step", made.step, (key, state, pair), (), config.precision)
    return step, *others


def stage_2(config: Config, parts: Parts, *, exact: bool = True) -> tuple[Call, ...]:
    """The inversion step of all hypotheses; nothing without a generator.

    Args:
      exact: False for the program of the hypothesis that a run tries first, if it tries one. That one
        makes more than any other, so all of them together need at most as many times as much.
    """
    generator = parts.generator
    if generator is None or config.refine.mode == "never":
        return ()
    made = pipeline.inversion_programs(config, parts)
    params, side = parts.generator_params, config.correspondence.image_size
    goal = jax.eval_shape(made.make_goal, _pixels(side, side), params=params, phi=parts.params)
    state = jax.eval_shape(made.init, _key(), params)
    beside = _begun(_beginning(config, parts))[1]._replace(phi=())  # the goal has phi
    active, times = tuple(range(len(made.plan))), 1
    if not exact and give_up_step(config.refine, config.inversion.steps) is not None:
        active, times = tried_first(made.plan), len(made.plan)
    arguments = (state, goal, active)
    return (Call("inversion step", made.step, arguments, beside, config.precision, times),)


def picture(config: Config, parts: Parts) -> tuple[Need, ...]:
    """The finished picture, a square at most."""
    longer = config.output.longer_side() or config.correspondence.image_size
    return (Need("finished picture", longer**2 * PIXEL + RUNTIME),)


STAGES: dict[str, Callable[[Config, Parts], tuple[Call | Need, ...]]] = dict(
    zip(pipeline.STAGES, (stage_1, picture, stage_2), strict=True)
)


def _beginning(config: Config, parts: Parts) -> Call:
    """What begins stage 1."""
    stage = config.correspondence
    photo = _pixels(1, stage.image_size, stage.image_size)
    begin = tuning.make_init(parts.backbone, stage, parts.optimizer)
    begun = (parts.params, photo, photo)
    return Call("beginning", begin, begun, precision=config.precision)


def _begun(beginning: Call) -> Any:
    """(state, pair) of stage 1, as shapes."""
    return jax.eval_shape(beginning.program, *beginning.arguments)


def _pixels(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((*shape, 3), jnp.float32)


def _key() -> Any:
    return jax.eval_shape(jax.random.key, 0)


def needs(config: Config, parts: Parts, *, exact: bool = False) -> tuple[Need, ...]:
    """What each stage needs; compiles what a run with these settings and parts is sure to use.

    Args:
      exact: compiles also what it may use, for numbers that are not the most that is possible.
    """
    with _no_collections():
        calls: list[Call | Need] = [*stage_1(config, parts), *picture(config, parts)]
        calls += stage_2(config, parts, exact=exact)
        with ThreadPoolExecutor(COMPILED_AT_ONCE) as workers:
            return tuple(workers.map(needed, calls))


@contextmanager
def _no_collections() -> Iterator[None]:
    """Tracing makes millions of objects, and most stay: Python would look through them all, often."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def table(found: Sequence[Need], there: int | None) -> str:
    """A line for each stage: MiB needed and free."""
    free = "unknown" if there is None else f"{there / MIB:.0f}"
    rows = [f"{need.stage:22}{need.bytes / MIB:12.0f}{free:>12}" for need in found]
    return "\n".join([f"{'stage':22}{'MiB needed':>12}{'MiB free':>12}", *rows])
