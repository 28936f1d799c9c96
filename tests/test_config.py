"""Settings: help and flags of every option, the presets, and what each bad value is told."""

import dataclasses

import pytest

from oeft_jax._checks import InputError
from oeft_jax.config import PRESETS, Config, check, flag_of, preset, sections

NAN = float("nan")


def all_options():
    """(section, field) of every setting."""
    return [
        (section, item)
        for section, values in sections(Config()).items()
        for item in dataclasses.fields(values)
        if "help" in item.metadata
    ]


def changed(section, **values):
    config = Config()
    if not section:
        return dataclasses.replace(config, **values)
    part = dataclasses.replace(getattr(config, section), **values)
    return dataclasses.replace(config, **{section: part})


def test_every_field_is_a_section_or_an_option_with_help():
    for section, values in sections(Config()).items():
        for item in dataclasses.fields(values):
            is_section = not section and dataclasses.is_dataclass(getattr(values, item.name))
            assert is_section or len(item.metadata["help"]) > 5, item.name
    assert len(all_options()) > 40


def test_flags_are_unique_over_all_sections_and_spelt_with_hyphens():
    flags = [flag_of(section, item.name, item.metadata) for section, item in all_options()]
    assert len(flags) == len(set(flags))
    assert all(flag == flag.lower() and "_" not in flag for flag in flags)
    assert {"steps", "inversion-steps", "selection-tap", "refine", "refine-limit", "seed"} <= set(
        flags
    )


def test_defaults_have_the_declared_kind_and_lie_within_their_own_limits():
    for _, item in all_options():
        default, metadata = item.default, item.metadata
        assert isinstance(default, bool | int | float | str | tuple), item.name
        if "choices" in metadata:
            assert default in metadata["choices"], item.name
        if "low" in metadata:
            assert metadata["low"] <= default <= metadata.get("high", default), item.name


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_preset_passes_its_own_check(name):
    assert check(preset(name)) is PRESETS[name]


def test_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="preset='fast' .*accepted: bundled, draft, fine, paper"):
        preset("fast")


def test_bundled_preset_is_the_defaults():
    assert preset("bundled") == Config()


def test_paper_preset_has_the_papers_numbers_and_the_released_operators():
    config = preset("paper")
    stage, inversion = config.correspondence, config.inversion
    assert stage.steps == 200
    assert stage.features == "vgg19"
    assert (stage.beta1, stage.beta2) == (0.5, 0.999)
    assert stage.finish == "soft"
    assert inversion.composing_layers == (4, 5, 6, 7, 8)
    assert inversion.num_codes == (10, 20, 30, 40)
    assert (inversion.optimizer, inversion.learning_rate) == ("sgd", 1.0)
    assert (inversion.down, inversion.perceptual) == ("bilinear", 0.001)
    assert config.selection.tolerance == float("inf")
    assert config.refine.mode == "always"
    assert (stage.fit, config.output.size) == ("squeeze", "working")


def test_draft_preset_does_less_of_everything_than_the_bundled_one():
    draft, bundled = preset("draft"), preset("bundled")
    for name in ("steps", "image_size", "grid"):
        assert getattr(draft.correspondence, name) < getattr(bundled.correspondence, name)
    assert draft.inversion.steps < bundled.inversion.steps
    ours, theirs = (c.inversion.composing_layers for c in (draft, bundled))
    assert len(ours) < len(theirs)
    assert len(draft.inversion.num_codes) < len(bundled.inversion.num_codes)


def test_settings_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().correspondence.steps = 3


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("", {"seed": -1}, r"--seed=-1 .*accepted: \[0, 2147483647\]"),
        ("", {"seed": 2**31}, r"--seed=2147483648 .*accepted: \[0, 2147483647\]"),
        ("correspondence", {"steps": -1}, r"--steps=-1 .*accepted: \[0, inf\]"),
        ("correspondence", {"alpha": NAN}, r"--alpha=nan .*accepted: \[0, 10000"),
        ("correspondence", {"beta1": 1.5}, r"--beta1=1.5 .*accepted: \[0, 1\]"),
        ("correspondence", {"temperature": 0.0}, r"--temperature=0.0 .*accepted: \[0.0001, inf\]"),
        ("correspondence", {"fit": "pad"}, "--fit='pad' .*accepted: crop, squeeze"),
        ("correspondence", {"neighbourhood": 2}, "--neighbourhood=2 .*accepted: 1, 3"),
        ("correspondence", {"optimizer": "lion"}, "--optimizer='lion' .*accepted: adam, sgd"),
        ("correspondence", {"taps": ()}, r"number of values of --taps=0 .*accepted: \[1, inf\]"),
        ("correspondence", {"grid": 48}, "--grid=48 .*accepted: 128, 16, 256, 32, 64"),
        ("correspondence", {"image_size": 16}, r"--image-size=16 .*accepted: \[32, inf\]"),
        ("correspondence", {"image_size": 4096}, r"--image-size=4096 .*accepted: \[32, 2048\]"),
        ("correspondence", {"image_size": 49, "grid": 8}, "--grid=8 .*accepted: 49"),
        ("inversion", {"steps": 0}, r"--inversion-steps=0 .*accepted: \[1, inf\]"),
        (
            "inversion",
            {"composing_layers": (4, 20)},
            r"--inversion-composing-layers=20 .*accepted: \[1, 19\]",
        ),
        ("inversion", {"composing_layers": ()}, "number of values of --inversion-composing-layers"),
        ("inversion", {"num_codes": (10, 0)}, r"--inversion-num-codes=0 .*accepted: \[1, 100\]"),
        ("inversion", {"num_codes": ()}, "number of values of --inversion-num-codes=0"),
        ("inversion", {"down": "nearest"}, "--inversion-down='nearest' .*accepted: area, bilinear"),
        (
            "selection",
            {"scorer": "fid"},
            "--selection-scorer='fid' .*accepted: point, reference, single-image",
        ),
        ("selection", {"tolerance": -0.1}, r"--selection-tolerance=-0.1 .*accepted: \[0, inf\]"),
        (
            "selection",
            {"scorer": "point"},
            "--selection-reference='' .*accepted: an .npz file with mu and sigma",
        ),
        ("refine", {"mode": "maybe"}, "--refine='maybe' .*accepted: always, auto, never"),
        (
            "output",
            {"size": "large"},
            "--size='large' .*accepted: a number of pixels, source, working",
        ),
        ("output", {"size": "-64"}, "--size='-64' .*accepted: a number"),
        ("output", {"size": "16"}, r"--size=16 .*accepted: \[32, 8192\]"),
        ("output", {"structure": 1.5}, r"--structure=1.5 .*accepted: \[0, 1\]"),
        ("refine", {"limit": NAN}, r"--refine-limit=nan .*accepted: \[-1, 1\]"),
    ],
)
def test_bad_value_is_refused_with_its_flag_and_what_is_accepted(section, values, message):
    with pytest.raises(InputError, match=message):
        check(changed(section, **values))


def test_every_option_with_limits_or_choices_refuses_a_value_outside_them():
    for section, item in all_options():
        if "choices" in item.metadata:
            bad = "none of these"
        elif "low" in item.metadata:
            bad = item.metadata["low"] - 1
        else:
            continue
        flag = f"--{flag_of(section, item.name, item.metadata)}"
        with pytest.raises(InputError, match=f"^{flag}=.*accepted: "):
            check(changed(section, **{item.name: bad}))


def test_good_values_on_the_limits_are_accepted():
    for section, values in (
        ("correspondence", {"steps": 0, "num_queries": 0, "beta1": 1.0}),
        ("correspondence", {"image_size": 2048, "grid": 64}),
        ("inversion", {"composing_layers": (1, 19), "num_codes": (1, 100)}),
        ("selection", {"scorer": "reference", "reference": "statistics.npz"}),
    ):
        config = changed(section, **values)
        assert check(config) is config
