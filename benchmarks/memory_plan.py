"""Memory that is foretold for each stage of a run, against what the process then held.

`python -m benchmarks.memory_plan --out OUT` calls every stage's program once, in a process of its
own, on random numbers: for the README's command (the bundled networks) and for the first stage of
the paper preset (VGG-19's shape). Foretold numbers are those that a run is refused by; measured ones
are the process's peak above what it held before the program's arguments. OUT/memory_plan.json keeps
them.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.harness import circumstances, peak_mib, reset_peak

CASES = {"readme": 4, "paper": 3}  # number of stages


def parts_of(case: str) -> tuple[Any, Any]:
    """(settings, parts) of a case."""
    import jax
    import numpy as np

    from oeft_jax import correspondence, loss_terms, pipeline
    from oeft_jax.config import RefineConfig, preset
    from oeft_jax.models import backbone as models

    bundled = preset("bundled")
    if case == "readme":
        return bundled, pipeline.load_parts(bundled)
    stage = preset("paper").correspondence
    config = dataclasses.replace(bundled, correspondence=stage, refine=RefineConfig("never"))
    network = models.backbone("vgg", {})
    taps = tuple(sorted({*stage.taps, *loss_terms.phi_taps(stage)}))
    rng = np.random.default_rng(0)

    def draw(leaf: Any) -> np.ndarray:
        fan_in = max(1, int(np.prod(leaf.shape[:-1])))
        return rng.normal(0, (2 / fan_in) ** 0.5, leaf.shape).astype(np.float32)

    like = jax.eval_shape(lambda key: network.init(key, taps), jax.random.key(0))
    parts = pipeline.Parts(
        backbone=network,
        params=jax.tree.map(draw, like),
        losses=loss_terms.default_losses(stage),
        optimizer=correspondence.default_optimizer(stage),
        generator=None,
        generator_params=None,
        inversion_optimizer=correspondence.default_optimizer(stage),
        scorer=lambda images, target: np.zeros(len(images)),
    )
    return config, parts


def calls_of(case: str) -> list[Any]:
    """Every call of a run that the plan counts."""
    from oeft_jax import memory_plan

    config, parts = parts_of(case)
    return [*memory_plan.stage_1(config, parts), *memory_plan.stage_2(config, parts)]


def arrays(tree: Any) -> Any:
    """Arrays of a tree's shapes, of numbers that every program takes; what is none stays."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    rng = np.random.default_rng(0)

    def one(leaf: Any) -> Any:
        if not hasattr(leaf, "dtype"):
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        if leaf.dtype == np.float32:
            return jnp.array(rng.random(leaf.shape, np.float32) / 16)
        return jnp.array(np.zeros(leaf.shape, leaf.dtype))

    return jax.tree.map(one, tree)


def child(case: str, place: int) -> None:
    """Prints what was foretold for a stage and what it then held, in MiB."""
    import jax

    from oeft_jax import memory_plan

    call = calls_of(case)[place]
    need = memory_plan.needed(call)
    before = reset_peak()
    held = arrays((call.arguments, call.beside))
    jax.block_until_ready(call.program(*held[0]))
    measured = peak_mib() - before
    row = {
        "case": case,
        "stage": need.stage,
        "foretold_mib": round(need.bytes / memory_plan.MIB),
        "measured_mib": round(measured),
        "measured_over_foretold": round(measured * memory_plan.MIB / need.bytes, 2),
    }
    print(json.dumps(row))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder for the numbers")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--child", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--place", type=int, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.child:
        child(flags.child, flags.place)
        return
    rows: list[dict[str, Any]] = []
    print(f"{'case':8}{'stage':22}{'foretold':>10}{'measured':>10}{'ratio':>7}  (MiB)")
    for case, place in [(name, place) for name in flags.cases for place in range(CASES[name])]:
        words = ["--child", case, "--place", str(place)]
        command = [sys.executable, "-m", "benchmarks.memory_plan", *words]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        row = json.loads(printed.splitlines()[-1])
        print(
            f"{row['case']:8}{row['stage']:22}{row['foretold_mib']:10}{row['measured_mib']:10}"
            f"{row['measured_over_foretold']:7.2f}",
            flush=True,
        )
        rows.append(row)
    if flags.out:
        flags.out.mkdir(parents=True, exist_ok=True)
        report = {**circumstances(), "rows": rows}
        (flags.out / "memory_plan.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
