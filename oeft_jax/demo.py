"""A page in the browser: two photos in, the translation out. `python -m oeft_jax.demo`.

Needs the `demo` extra. It listens on this machine only and sends nothing anywhere.
"""

import dataclasses
from typing import Any

import numpy as np

from oeft_jax import pipeline, report
from oeft_jax._checks import InputError
from oeft_jax.config import PRESETS, REFINES, Config
from oeft_jax.image import to_uint8


def run(source: Any, target: Any, config: Config, tell: Any) -> tuple[np.ndarray, Any, str]:
    """One translation of uint8 pictures. -> (picture uint8, overview, verdict).

    Args:
      source, target: [h, w, 3] uint8, or None where no photo was given.
      tell: called with (part done in [0, 1], text).
    """
    if source is None or target is None:
        raise InputError("two photos are needed: a source and a target.")
    photos = [np.asarray(photo, np.float32) / 255 for photo in (source, target)]

    def on_progress(progress: pipeline.Progress) -> None:
        tell(progress.step / progress.total, progress.stage)

    result = pipeline.translate(photos[0], photos[1], config, on_progress=on_progress)
    return to_uint8(result.image), report.overview(result), result.verdict


def page() -> Any:
    """The gradio page."""
    import gradio as gr  # an extra, and slow to import

    def clicked(
        source: Any,
        target: Any,
        preset: str,
        steps: float,
        structure: float,
        refine: str,
        progress: Any = gr.Progress(),  # noqa: B008  gradio finds it by this default
    ) -> tuple[np.ndarray, Any, str]:
        config = PRESETS[preset]
        stage = dataclasses.replace(config.correspondence, steps=int(steps))
        choice = dataclasses.replace(config.refine, mode=refine)
        output = dataclasses.replace(config.output, structure=structure)
        config = dataclasses.replace(config, correspondence=stage, refine=choice, output=output)
        try:
            return run(source, target, config, progress)
        except InputError as error:
            raise gr.Error(str(error)) from error

    presets = [name for name in PRESETS if name != "paper"]  # its weights are not bundled
    return gr.Interface(
        clicked,
        inputs=[
            gr.Image(label="source: structure"),
            gr.Image(label="target: appearance"),
            gr.Dropdown(presets, value="draft", label="preset"),
            gr.Slider(0, 200, value=20, step=1, label="fine-tuning steps"),
            gr.Slider(
                0, 1, value=Config().output.structure, label="appearance (0) to structure (1)"
            ),
            gr.Dropdown(list(REFINES), value="auto", label="use the generator"),
        ],
        outputs=[
            gr.Image(label="translation"),
            gr.Image(label="overview"),
            gr.Textbox(label="verdict"),
        ],
        title="Exemplar-based image translation",
        flagging_mode="never",
    )


if __name__ == "__main__":
    page().launch(server_name="127.0.0.1")
