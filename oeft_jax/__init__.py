"""Exemplar-based image translation by online fine-tuning (arXiv 2011.09330), in JAX."""

__version__ = "0.1.0"

from oeft_jax._checks import InputError
from oeft_jax.config import (
    PRESETS,
    Config,
    CorrespondenceConfig,
    InversionConfig,
    OutputConfig,
    RefineConfig,
    SelectionConfig,
    preset,
)
from oeft_jax.correspondence import NonFiniteError
from oeft_jax.pipeline import Parts, Progress, Translation, load_parts, translate, with_structure

__all__ = [
    "PRESETS",
    "Config",
    "CorrespondenceConfig",
    "InputError",
    "InversionConfig",
    "NonFiniteError",
    "OutputConfig",
    "Parts",
    "Progress",
    "RefineConfig",
    "SelectionConfig",
    "Translation",
    "load_parts",
    "preset",
    "translate",
    "with_structure",
]
