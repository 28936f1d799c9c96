"""What the benchmarks measure of the PyTorch counterparts; each function makes one program."""

from collections.abc import Callable
from functools import partial

import torch

from benchmarks import networks, torch_cft, torch_inversion
from benchmarks.harness import Program

LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


def _program(step: Callable[[], float], device: torch.device) -> Program:
    is_cuda = device.type == "cuda"

    def peak() -> float | None:
        return torch.cuda.max_memory_allocated() / 2**20 if is_cuda else None

    name = f"gpu: {torch.cuda.get_device_name()}" if is_cuda else "cpu: cpu"  # as JAX names them
    return Program(step, name, peak)


def fine_tuning(size: str, *, layout: str, compiled: bool = False) -> Program:
    """One step of correspondence fine-tuning, of one pair."""
    device, config = torch_cft.prepare(), networks.settings(size)
    tuned, pair = torch_cft.init(
        networks.features(size).params,
        *networks.pictures(config.image_size),
        config=config,
        device=device,
        layout=LAYOUTS[layout],
    )
    return _program(torch_cft.make_step(tuned, pair, config, compiled=compiled), device)


def inversion_step(
    size: str, plan: list[list[int]], *, layout: str, batched: bool, compiled: bool = False
) -> Program:
    """One step of the one hypothesis of a plan, [layer, number of codes]."""
    device, config, wanted = torch_cft.prepare(), networks.inversion_settings(size), LAYOUTS[layout]
    ((layer, num),) = plan
    network = networks.generator(size)
    goal = torch_inversion.make_goal(
        networks.pictures(network.config["resolution"])[0][0],
        networks.features(size).params,
        config=config,
        device=device,
        layout=wanted,
    )
    step = torch_inversion.make_step(
        torch_inversion.generator(network.params, device, wanted),
        torch_inversion.init(*networks.start_codes(network, num, layer), device),
        goal,
        config,
        layer,
        batched=batched,
        layout=wanted,
        compiled=compiled,
    )
    return _program(step, device)


PROGRAMS: dict[str, Callable[..., Program]] = {
    "torch_fine_tuning": fine_tuning,
    "torch_inversion": partial(inversion_step, batched=False),
    "torch_inversion_batched": partial(inversion_step, batched=True),
}
