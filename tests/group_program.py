"""Run with 8 forced host devices by test_devices: groups of pairs against each pair alone.

`python group_program.py WEIGHTS STATE` prints one JSON object.
"""

import contextlib
import dataclasses
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from oeft_jax import devices, pipeline
from oeft_jax.config import Config, CorrespondenceConfig, InversionConfig, SelectionConfig
from oeft_jax.group import translate_group

PAIRS, LOST, RESUMED, STEPS = 5, 1, 3, 4
compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, seconds, **_: compiled.append(name) if "backend_compile" in name else None
)


def settings(weights):
    stage = CorrespondenceConfig(
        steps=STEPS,
        features=str(weights / "features.safetensors"),
        image_size=32,
        fit="crop",  # a case in which rounding errors stay small
        grid=8,
        taps=("relu1_1", "relu2_1"),
        gram_taps=("relu1_1",),
        contextual_taps=("relu2_1",),
        num_queries=16,  # drawn at random in each step
        augment=False,
        optimizer="sgd",  # Adam makes a whole step of a rounding error
        learning_rate=1e-3,
        alpha=10.0,
    )
    inversion = InversionConfig(
        generator=str(weights / "generator.safetensors"),
        composing_layers=(3,),
        num_codes=(2, 3),
        perceptual_tap="relu2_1",
        steps=2,
    )
    return Config(stage, inversion, SelectionConfig(tap="relu2_1"))


def spoiled(x):
    """Not finite for a white source."""
    return jnp.where(jnp.mean(x.source) > 0.8, jnp.nan, 0.0)


def distances(one, other):
    """Largest difference of each array that two translations hold."""
    parts = ("image", "warped", "soft_warped", "history", "losses", "confidence", "hypotheses")
    found = {}
    for name in parts:
        leaves = [jax.tree.leaves(getattr(result, name)) for result in (one, other)]
        found[name] = max(
            float(np.max(np.abs(np.asarray(a, float) - b))) for a, b in zip(*leaves, strict=True)
        )
    return found


def main(weights, states):
    config = settings(weights)
    parts = pipeline.load_parts(config)
    parts = parts._replace(losses={**parts.losses, "spoiled": (1.0, spoiled)})
    rng = np.random.default_rng(0)
    pairs = [(rng.uniform(0, 0.7, (40, 48, 3)), rng.uniform(size=(36, 64, 3))) for _ in range(9)]
    pairs[LOST] = (np.ones((40, 40, 3)), pairs[LOST][1])
    alone = [
        pipeline.translate(*pair, config, parts=parts) if i != LOST else None
        for i, pair in enumerate(pairs[:PAIRS])
    ]
    mesh = devices.pair_mesh(8)

    pipeline.SAVE_EVERY = 1  # one pair has been begun before, so the group is at uneven steps

    def stop(progress):
        if progress.step == 2:
            raise KeyboardInterrupt

    folders = [states / str(i) for i in range(PAIRS)]
    with contextlib.suppress(KeyboardInterrupt):
        pipeline.translate(
            *pairs[RESUMED], config, parts=parts, on_progress=stop, state_folder=folders[RESUMED]
        )
    told = []
    group = translate_group(
        pairs[:PAIRS],
        config,
        parts=parts,
        mesh=mesh,
        on_progress=told.append,
        state_folders=folders,
    )
    before = len(compiled)
    whole = translate_group(pairs[1:9], config, parts=parts, mesh=mesh)
    later = len(compiled) - before
    stage = dataclasses.replace(config.correspondence, steps=0)
    untuned = translate_group(
        pairs[:1], dataclasses.replace(config, correspondence=stage), parts=parts, mesh=mesh
    )
    print(
        json.dumps(
            {
                "devices": jax.device_count(),
                "apart": [distances(group[i], alone[i]) for i in (0, 2, 3, 4)],
                "apart in another group": [distances(whole[i - 1], alone[i]) for i in (2, 3, 4)],
                "between pairs": distances(group[0], group[2]),
                "tuned": float(np.abs(alone[0].history[0][1] - alone[0].soft_warped).max()),
                "error": str(group[LOST]),
                "good steps": int(group[LOST].state.step),
                "saved": sorted(p.name for p in (folders[LOST] / "correspondence").iterdir()),
                "marks": [mark for mark, _ in group[0].history],
                "untuned": float(np.abs(untuned[0].soft_warped - alone[0].history[0][1]).max()),
                "compiled later": later,
                "told": [one.step for one in told if one.stage == "correspondence"],
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
