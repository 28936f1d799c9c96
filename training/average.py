"""The weighted mean of two weight files of one network: `python -m training.average`.

For two states of one training, one trained on from the other: what was gained on the way, less some
of it and of what was lost for it (Wortsman et al. 2022, 2109.01903).
"""

import argparse
from pathlib import Path

import jax

from oeft_jax._checks import InputError, check_range
from oeft_jax.weights import load_weights, save_weights
from training import cli


def main(args: argparse.Namespace) -> None:
    """Writes `--share` of the first file and the rest of the second, with the first's header.

    Raises:
      InputError: a file that cannot be read, two networks, a share outside [0, 1].
    """
    check_range("--share", args.share, 0, 1)
    first, second = load_weights(args.first), load_weights(args.second)
    described = [f"{weights.network} {weights.config}" for weights in (first, second)]
    if described[0] != described[1]:
        raise InputError(f"{args.second}: holds {described[1]}; accepted: {described[0]}.")
    params = jax.tree.map(
        lambda a, b: args.share * a + (1 - args.share) * b, first.params, second.params
    )
    made = first.metadata | {"averaged": f"{args.share} and {second.sha256[:8]}"}
    save_weights(args.out, params, network=first.network, config=first.config, metadata=made)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", type=Path, help="weight file")
    parser.add_argument("second", type=Path, help="weight file of the same network")
    parser.add_argument("--share", type=float, default=0.5, help="of the first")
    parser.add_argument("--out", type=Path, required=True, help="weight file to write")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    cli.run(lambda: main(parse()))
