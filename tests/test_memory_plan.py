"""The memory of a run: foretold from shapes, compared with what is there, refused with a way out."""

import dataclasses
import gc
import importlib
import json
import logging
import re
from contextlib import nullcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny_networks import NETWORKS, random_params

from benchmarks import memory_plan as measured
from oeft_jax import memory, memory_fit, memory_plan, pipeline
from oeft_jax._checks import InputError
from oeft_jax.config import (
    PRESETS,
    Config,
    CorrespondenceConfig,
    InversionConfig,
    OutputConfig,
    RefineConfig,
    SelectionConfig,
    check,
)
from oeft_jax.config import preset as preset_of
from oeft_jax.flags import config_from, flags_between, parser
from oeft_jax.weights import save_weights

pytestmark = pytest.mark.usefixtures("full_compile")

command = importlib.import_module("oeft_jax.translate")

MIB = 2**20
FIRST = ["correspondence step", "beginning", "final warp", "finished picture"]
BOTH = [*FIRST, "inversion step"]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Networks of a few channels, on an image that can still be halved."""
    folder = tmp_path_factory.mktemp("weights")
    files = {"vgg": folder / "features.safetensors", "pggan": folder / "generator.safetensors"}
    for network, path in files.items():
        save_weights(path, random_params(network), network=network, config=NETWORKS[network])
    stage = CorrespondenceConfig(
        steps=2,
        features=str(files["vgg"]),
        image_size=128,
        grid=16,
        taps=("relu2_1",),
        gram_taps=("relu1_1",),
        contextual_taps=("relu2_1",),
        lambda_contextual=0.0,
        lambda_structure=0.0,
        augment=True,
        num_queries=16,
    )
    inversion = InversionConfig(
        str(files["pggan"]),
        composing_layers=(2,),
        num_codes=(2, 3),
        steps=2,
        perceptual_tap="relu2_1",
    )
    return Config(stage, inversion, SelectionConfig(tap="relu2_1"), output=OutputConfig(size="128"))


@pytest.fixture(scope="module")
def parts(config):
    return pipeline.load_parts(config)


@pytest.fixture(scope="module")
def needs(config, parts):
    return memory_plan.needs(config, parts)


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def changed(config, **options):
    """The config with options of its first stage changed."""
    return dataclasses.replace(
        config, correspondence=dataclasses.replace(config.correspondence, **options)
    )


# What a program needs


def bytes_of(program, *arguments, beside=()):
    call = memory_plan.Call("x", program, arguments, beside)
    return (memory_plan.needed(call).bytes - memory_plan.RUNTIME) / memory_plan.SCRATCH


def test_arguments_outputs_and_what_lives_beside_are_counted():
    double = jax.jit(lambda x, unread: 2 * x)
    arguments = (floats(1000), floats(500))
    assert bytes_of(double, *arguments) == pytest.approx(4 * (1000 + 500 + 1000), abs=64)
    beside = {"held": floats(250), "key": jax.eval_shape(jax.random.key, 0), "none": None}
    assert bytes_of(double, *arguments, beside=beside) == pytest.approx(4 * 2750 + 8, abs=64)


def test_a_donated_argument_is_counted_once():
    program = jax.jit(lambda x: x + 1, donate_argnums=0)
    assert bytes_of(program, floats(1000)) == pytest.approx(4000, abs=64)


def test_scratch_is_counted_and_nothing_is_allocated():
    program = jax.jit(lambda x: jnp.sum(jnp.sort(jnp.outer(x, x), axis=0)[0]))
    assert bytes_of(program, floats(2**20)) > 4 * 2**40  # 4 TiB, which no machine here has


def test_programs_of_trials_need_the_same(config, parts, needs):
    calls = (*memory_plan.stage_1(config, parts), *memory_plan.stage_2(config, parts))
    compiled = [need for need in needs if need.stage != FIRST[3]]
    for one, call in zip(compiled, calls, strict=True):
        other = memory_plan.needed(call, trial=True)
        own = [need.bytes - memory_plan.RUNTIME for need in (one, other)]
        assert own[1] == pytest.approx(own[0], rel=0.02), one.stage


# What a run needs


def test_every_stage_of_the_run_is_there(config, parts, needs):
    assert [need.stage for need in needs] == BOTH
    assert all(need.bytes > memory_plan.RUNTIME + 1000 for need in needs)
    never = dataclasses.replace(config, refine=RefineConfig("never"))
    assert [need.stage for need in memory_plan.needs(never, parts)] == FIRST
    assert [n.stage for n in memory_plan.stage_1(changed(config, steps=0), parts)] == BOTH[1:3]


@pytest.fixture(scope="module")
def tries(config):
    """A config whose run tries one hypothesis before it makes all four."""
    inversion = dataclasses.replace(config.inversion, steps=3, composing_layers=(2, 3))
    return dataclasses.replace(config, inversion=inversion)


def test_what_all_hypotheses_need_is_bounded_by_the_one_that_is_tried(tries, parts):
    (whole,), (tried,) = (memory_plan.stage_2(tries, parts, exact=exact) for exact in (True, False))
    assert (len(whole.arguments[2]), tried.arguments[2], tried.times) == (4, (3,), 4)
    most, exact, one = map(memory_plan.needed, (tried, whole, tried._replace(times=1)))
    assert one.bytes < exact.bytes < most.bytes
    assert most.stage == exact.stage


def test_a_run_is_refused_by_what_it_needs_and_not_by_a_bound(tries, parts, monkeypatch):
    exact = memory_plan.needs(tries, parts, exact=True)
    most = max(need.bytes for need in exact)
    bound = (*exact[:-1], exact[-1]._replace(bytes=most + 1))
    found = {False: bound, True: exact}
    monkeypatch.setattr(memory_fit, "needs", lambda *_, exact=False: found[exact])
    assert memory_fit.check(tries, parts, free=lambda: most + 1) == bound
    assert memory_fit.check(tries, parts, free=lambda: most) == exact
    with pytest.raises(InputError, match=f"needs {most / MIB:.0f} MiB"):
        memory_fit.check(tries, parts, free=lambda: most - 1)


@pytest.mark.parametrize("is_on", [True, False])
@pytest.mark.parametrize("error", [None, InputError("no")])
def test_garbage_is_collected_after_the_plan_as_before(config, parts, monkeypatch, is_on, error):
    seen = []

    def stage(*_):
        seen.append(gc.isenabled())
        if error:
            raise error
        return ()

    for name in ("stage_1", "picture"):
        monkeypatch.setattr(memory_plan, name, stage)
    never = dataclasses.replace(config, refine=RefineConfig("never"))
    before = gc.isenabled()
    try:
        (gc.enable if is_on else gc.disable)()
        with pytest.raises(InputError) if error else nullcontext():
            memory_plan.needs(never, parts)
        assert seen == ([False] if error else [False, False])
        assert gc.isenabled() is is_on
    finally:
        (gc.enable if before else gc.disable)()


def test_the_finished_picture_needs_what_its_size_says(config, parts):
    def bytes_of(size):
        output = OutputConfig(size=size)
        found = memory_plan.picture(dataclasses.replace(config, output=output), parts)
        return found[0].bytes - memory_plan.RUNTIME

    assert bytes_of("working") == bytes_of(str(config.correspondence.image_size))
    assert bytes_of("source") == bytes_of("1024") == bytes_of("512") * 4 > 0


def test_a_smaller_picture_where_it_is_too_large(config, parts, needs, monkeypatch):
    large = dataclasses.replace(config, output=OutputConfig(size="8000"))
    there = max(need.bytes for need in needs)
    with pytest.raises(InputError, match="the finished picture needs .* --size ") as caught:
        memory_fit.check(large, parts, free=lambda: there)
    smaller = proposed(str(caught.value), large)
    assert smaller == dataclasses.replace(large, output=smaller.output)
    assert int(smaller.output.size) in (1000, 500, 250)


def test_the_step_holds_all_weights_and_moments_and_more(config, parts, needs):
    tuned = pipeline.begin(
        *np.random.default_rng(0).random((2, 130, 130, 3)), config, parts, pipeline.Store(None)
    )
    held = memory_plan.size_of((tuned.state, tuned.pair))
    pixels = memory_plan.size_of(floats(2, 128, 128, 4))  # one feature map of both pairs
    assert needs[0].bytes - memory_plan.RUNTIME > held + 4 * pixels


def test_a_run_compiles_nothing_that_the_plan_has_compiled(config, parts, needs, caplog):
    def compiled():
        found = re.findall(r"Finished XLA compilation of jit\((\w+)\)", caplog.text)
        caplog.clear()
        return [name for name in found if name in ("step", "init", "warped")]

    other = dataclasses.replace(config, inversion=dataclasses.replace(config.inversion, l1=0.1))
    other = changed(other, alpha=99.0)  # settings of no other test
    other = dataclasses.replace(other, precision="bfloat16")
    own = pipeline.load_parts(other)
    caplog.set_level(logging.WARNING, "jax")
    jax.config.update("jax_log_compiles", True)  # of every thread, which `log_compiles` is not
    try:
        memory_plan.needs(other, own)
        assert sorted(compiled()) == ["init", "step", "step", "warped"]
        pipeline.translate(*np.random.default_rng(0).random((2, 130, 130, 3)), other, parts=own)
        assert compiled() == []
    finally:
        jax.config.update("jax_log_compiles", False)


@pytest.mark.parametrize("case", sorted(measured.CASES))
def test_the_benchmark_calls_what_the_plan_counts(case):
    assert len(measured.calls_of(case)) == measured.CASES[case]


# What fits


def test_what_fits_passes_and_what_nobody_knows_passes(config, parts, needs):
    most = max(need.bytes for need in needs)
    assert memory_fit.check(config, parts, free=lambda: most) == needs
    assert memory_fit.check(config, parts, free=lambda: None) == needs


def proposed(text, config):
    """The config with the flags of a refusal."""
    words = re.search(r"(?:accepted:|--overwrite) (--.*?) \(compiled", text).group(1).split()
    given = parser().parse_args(words)
    base = {k: v for k, v in vars(given).items() if "." in k and v is not None}
    for name, value in base.items():
        section, option = name.split(".")
        part = dataclasses.replace(getattr(config, section), **{option: value})
        config = dataclasses.replace(config, **{section: part})
    return check(config)


def test_a_refusal_names_stage_numbers_and_flags_that_really_fit(config, parts, needs):
    halved = memory_plan.stage_1(changed(config, image_size=64), parts)[0]
    there = memory_plan.needed(halved, trial=True).bytes + MIB // 10
    with pytest.raises(InputError) as caught:
        memory_fit.check(config, parts, free=lambda: there)
    text = str(caught.value)
    assert f"the correspondence step needs {needs[0].bytes / MIB:.0f} MiB" in text
    assert f"{there / MIB:.0f} MiB are free" in text
    smaller = proposed(text, config)
    assert smaller.correspondence.image_size == 64
    assert smaller.inversion == config.inversion
    again = memory_plan.needs(smaller, parts)
    assert max(need.bytes for need in again) <= there


def test_the_change_that_costs_least_comes_first(config, parts, needs):
    fitting = memory_fit.smaller(config, parts, needs[0].bytes - 1)
    assert flags_between(config, fitting) == "--no-augment"


def test_where_nothing_fits_the_refusal_says_so(config, parts):
    with pytest.raises(InputError, match="none of the smaller settings that were tried fits"):
        memory_fit.check(config, parts, free=lambda: 1000)


def test_fewer_codes_where_the_inversion_is_too_large(config, parts, monkeypatch):
    by_codes = {3: 300, 2: 200, 1: 100}

    def inversion(config, parts):
        most = max(config.inversion.num_codes)
        return () if config.refine.mode == "never" else (most,)

    def foretold(most, *, trial):
        return memory_plan.Need("inversion step", by_codes[most])

    monkeypatch.setattr(memory_fit, "needed", foretold)
    monkeypatch.setattr(memory_fit, "stage_1", lambda *_: ())
    monkeypatch.setattr(memory_fit, "picture", lambda *_: ())
    monkeypatch.setattr(memory_fit, "stage_2", inversion)
    found = [memory_fit.smaller(config, parts, there) for there in (300, 299, 199, 99)]
    assert [flags_between(config, one) for one in found] == [
        "",
        "--inversion-num-codes 2",
        "--inversion-num-codes 1",
        "--refine never",
    ]


@pytest.mark.parametrize("start", sorted(PRESETS))
def test_every_proposal_is_a_setting_that_can_be_used(start):
    config = preset_of(start)
    for proposals in (memory_fit._smaller_1(config), memory_fit._smaller_2(config)):
        assert proposals
        assert [check(one) for one in proposals] == proposals
        flags = [flags_between(config, one) for one in proposals]
        assert len(set(flags)) == len(flags)
        assert "" not in flags


def test_proposals_of_a_large_run():
    config = changed(Config(), image_size=1024, grid=256, tile=65536, augment=True)
    flags = [flags_between(config, one) for one in memory_fit._smaller_1(config)]
    assert flags == [
        "--tile 1024",
        "--grid 128 --tile 1024",
        "--grid 64 --tile 1024",
        "--grid 64 --tile 1024 --no-augment",
        "--image-size 512 --grid 64 --tile 1024",
        "--image-size 256 --grid 64 --tile 1024",
        "--image-size 128 --grid 32 --tile 1024",
        "--image-size 64 --grid 16 --tile 1024",
    ]


def test_a_smaller_tile_comes_first_where_the_correlation_is_one():
    config = changed(Config(), augment=True)
    flags = [flags_between(config, one) for one in memory_fit._smaller_1(config)]
    assert flags[:2] == ["--tile 1024", "--tile 1024 --no-augment"]


@pytest.mark.parametrize("limit", range(6))
def test_the_first_that_fits_is_found_with_few_trials(limit):
    tried = []

    def fits(need):
        tried.append(need)
        return need <= limit

    assert memory_fit._first([9, 7, 5, 3, 1], fits) == next(
        (n for n in [9, 7, 5, 3, 1] if n <= limit), None
    )
    assert len(tried) <= 3


def test_flags_between_are_read_back():
    old = preset_of("bundled")
    new = preset_of("draft")
    new = dataclasses.replace(changed(new, augment=True), refine=RefineConfig("never"), seed=3)
    words = flags_between(old, new).split()
    assert config_from(parser().parse_args(words)) == new
    assert flags_between(new, new) == ""


# The command


@pytest.fixture
def loaded(parts, monkeypatch):
    """The networks are those whose programs are compiled already."""
    monkeypatch.setattr(pipeline, "load_parts", lambda config: parts)


@pytest.fixture
def words(config, loaded, tmp_path):
    """The command for the config, into tmp_path / "out"."""
    rng = np.random.default_rng(0)
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in "ab":
        picture = rng.integers(0, 256, (130, 130, 3), dtype=np.uint8)
        Image.fromarray(picture).save(photos / f"{name}.png")
    files = ["--source", photos / "a.png", "--target", photos / "b.png", "--out", tmp_path / "out"]
    return [*map(str, files), *flags_between(Config(), config).split()]


def one_line(capsys):
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "Traceback" in line] == []
    return lines[-1]


def test_a_run_that_does_not_fit_leaves_nothing(words, tmp_path, needs, monkeypatch, capsys):
    monkeypatch.setattr(memory, "free_bytes", lambda: needs[0].bytes - 1)
    assert command.main(words) == 2
    assert one_line(capsys).endswith("accepted: --no-augment (compiled, it fits), or more memory.")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_plan_prints_a_table_and_runs_nothing(config, loaded, needs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(memory, "free_bytes", lambda: 5000 * MIB)
    words = ["--plan", *flags_between(Config(), config).split()]  # no photos are needed
    assert command.main(words) == 0
    rows = [line.rsplit(maxsplit=2) for line in capsys.readouterr().out.splitlines()[-len(needs) :]]
    assert rows == [[n.stage, f"{n.bytes / MIB:.0f}", "5000"] for n in needs]
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(memory, "free_bytes", lambda: None)
    assert command.main(words) == 0
    assert capsys.readouterr().out.count("unknown") == len(needs)
    monkeypatch.setattr(memory, "free_bytes", lambda: needs[0].bytes - 1)
    assert command.main(words) == 2
    assert "--no-augment" in one_line(capsys)


def exhausted(*args, **options):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes.")


def test_running_out_in_the_middle_says_what_would_fit(
    words, config, needs, tmp_path, monkeypatch, capsys
):
    words, tune = [*words, "--refine", "never"], pipeline.tuning.tune
    monkeypatch.setattr(memory, "free_bytes", lambda: needs[0].bytes)  # the plan was content
    monkeypatch.setattr(pipeline.tuning, "tune", exhausted)
    assert command.main(words) == 1
    line = one_line(capsys)
    assert "the memory ran out in correspondence fine-tuning" in line
    assert f"the correspondence step needs {needs[0].bytes / MIB:.0f} MiB" in line
    assert "continue with --resume" in line
    assert proposed(line, config).correspondence.augment is False
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.unfinished", "photos"]
    monkeypatch.setattr(pipeline.tuning, "tune", tune)
    assert command.main([*words, "--resume"]) == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))
    assert manifest["memory_bytes"] == dict(needs[:4])


def test_running_out_elsewhere_is_one_line_too(words, monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "load_parts", exhausted)
    assert command.main(words) == 1
    assert one_line(capsys).startswith("oeft_jax: RESOURCE_EXHAUSTED")


def test_another_error_of_xla_is_a_bug_and_shows(words, monkeypatch):
    def broken(*args, **options):
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")

    monkeypatch.setattr(pipeline.tuning, "tune", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        command.main(words)
