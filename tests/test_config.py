"""Settings: every impossible value is found, all at once, in the user's words; the command line says it in one line."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import pytest

from rams_jax import config as settings
from rams_jax import types

ROOT = pathlib.Path(__file__).resolve().parent.parent
SECTIONS = {
    "model": types.ModelSettings,
    "augment": types.AugmentSettings,
    "loss": types.LossSettings,
    "evolution": types.EvolutionSettings,
    "instances": types.InstanceSettings,
}
# What the auxiliary tasks and the images decide.
DERIVED = {
    "model": {"mean": (0.1,), "std": (0.2,)},
    "augment": {"brightness": (0.1,), "noise": (0.1,)},
    "loss": {"auxiliary": (0.3,)},
    "evolution": {"closing": (0,), "seams": ()},
    "instances": {"dividing": (0,), "beginning": ()},
}

IMPOSSIBLE = [
    ("method", "ramz"),
    ("seed", -1),
    ("seed", 2**32),
    ("data.name", "imagenet"),
    ("data.strong", 0),
    ("data.mark_coverage", (0.4, 0.15)),
    ("data.mark_coverage", (0.15,)),
    ("data.mark_coverage", (0.5, 1.0)),
    ("data.mark_coverage", ("a", "b")),
    ("data.weak", -1),
    ("data.mark_shift", 1.5),
    ("data.mark_spill", 0.6),
    ("data.mark_missing", 1.0),
    ("data.mark_missing_images", -0.1),
    ("data.channels", ()),
    ("data.channels", (0, 0)),
    ("data.channels", (-1,)),
    ("data.class_names", ()),
    ("data.class_names", ("cell", "cell")),
    ("data.class_names", ("",)),
    ("model.width", 0),
    ("model.depth", 0),
    ("model.dtype", "float16"),
    ("augment.crop", 0),
    ("augment.foreground", 1.1),
    ("augment.rotation", 181.0),
    ("augment.scale", 0.5),
    ("augment.elastic_grid", 0),
    ("augment.noise", -0.1),
    ("augment.noise", float("nan")),
    ("augment.blur", float("inf")),
    ("train.steps", 0),
    ("train.strong_crops", 0),
    ("train.learning_rate", 0.0),
    ("train.learning_rate", float("nan")),
    ("train.ema", 1.0),
    ("train.log_every", 0),
    ("train.shards", -1),
    ("loss.approximation", -1.0),
    ("loss.weak", -1.0),
    ("evolution.images_per_step", 0),
    ("evolution.coverage", 0.0),
    ("evolution.alpha", 1.5),
    ("evolution.tau_min", -0.1),
    ("evolution.reach", 0),
    ("evolution.stop_growth", 1.0),
    ("evolution.leak_factor", 0.9),
    ("instances.threshold", 0.0),
    ("instances.threshold", 1.0),
    ("instances.min_area", -1),
]


def changed(**values):
    config = settings.default()
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in values.items()})
    return config


def test_default_is_possible():
    assert settings.validate(settings.default()) is None  # no ConfigError


@pytest.mark.parametrize("section", SECTIONS)
def test_section_makes_its_dataclass(section):
    values = {**settings.default()[section], **DERIVED.get(section, {})}
    made = SECTIONS[section](**values)
    assert dataclasses.asdict(made) == values


def test_dataclass_fields_have_the_types_they_declare():
    for section, made in SECTIONS.items():
        for field in dataclasses.fields(made):
            if field.name in DERIVED.get(section, {}):
                continue
            assert type(settings.default()[section][field.name]).__name__ == field.type


def test_default_is_json():
    text = json.dumps(settings.default().to_dict())
    assert json.loads(text)["data"]["mark_coverage"] == [0.15, 0.4]


@pytest.mark.parametrize("key, value", IMPOSSIBLE)
def test_impossible_value(key, value):
    with pytest.raises(settings.ConfigError) as error:
        settings.validate(changed(**{key: value}))
    message = str(error.value)
    assert message.startswith(f"{key} is {value!r}, but must be ")
    assert message.endswith(".") and "\n" not in message


def test_every_setting_has_a_rule():
    """A text in place of any setting but a text is refused, so nothing goes unchecked."""
    for key, value in settings.flatten(settings.default()).items():
        if isinstance(value, str):
            continue
        config = settings.default()
        section, _, name = key.rpartition(".")
        with (config[section] if section else config).ignore_type():
            (config[section] if section else config)[name] = "many"
        with pytest.raises(settings.ConfigError, match=f"^{key} is 'many', but must be "):
            settings.validate(config)


def test_all_mistakes_at_once():
    config = changed(method="ramz", train__steps=-5, evolution__alpha=2.0)
    config.train.stepz = 3
    with pytest.raises(settings.ConfigError) as error:
        settings.validate(config)
    lines = str(error.value).splitlines()
    assert len(lines) == 4
    for key in ("method is", "train.steps is -5", "evolution.alpha is 2.0", "no setting train.stepz"):
        assert sum(key in line for line in lines) == 1


def test_missing_setting():
    config = settings.default()
    del config.loss.weak
    with pytest.raises(settings.ConfigError, match="loss.weak is missing"):
        settings.validate(config)


@pytest.mark.parametrize(
    "values, sentence",
    [
        ({"evolution.start": 0.9}, "evolution.start is 0.9, but must not be above evolution.end, which is 0.6"),
        ({"model.own_levels": 3}, "model.own_levels is 3, but must be below model.depth, which is 3"),
        ({"augment.crop": 66}, r"augment.crop is 66, but must be a multiple of 2\^\(model.depth - 1\)"),
        ({"train.steps": 50}, "train.warmup_steps is 50, but must be below train.steps, which is 50"),
        ({"data.name": "folder"}, "data.source is '' while data.name is 'folder'"),
        ({"data.source": "images"}, "data.source is 'images' while data.name is 'scratch_assay'"),
    ],
)
def test_settings_that_do_not_fit_together(values, sentence):
    with pytest.raises(settings.ConfigError, match=sentence):
        settings.validate(changed(**values))


def test_settings_that_fit_together():
    assert settings.validate(changed(**{"data.name": "folder", "data.source": "images"})) is None
    assert settings.validate(changed(**{"evolution.start": 0.5, "evolution.end": 0.5})) is None


@pytest.mark.parametrize(
    "key, near",
    [("train.stepz", "train.steps"), ("learning_rate", "train.learning_rate"), ("model.elastic", "augment.elastic")],
)
def test_unknown_key_names_the_nearest(key, near):
    assert settings.unknown_key(key, settings.flatten(settings.default())).endswith(f"did you mean {near}?")


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--config=configs/microscopy.py", "--config.train.stepz=5"], "did you mean train.steps?"),
        (["--config=configs/microscopy.py", "--config.train.steps=x"], "train.steps is 'x', but must be an integer"),
        (["--config=configs/microscopy.py:smokey"], "has no variant 'smokey'"),
        (["--config", "configs/microscopy.py", "--config.evolution.alpha=7"], "evolution.alpha is 7.0, but must be"),
        (["--config=configs/nothing.py"], "There is no config file 'configs/nothing.py'"),
        (["--config=configs/microscopy.py", "--train.steps=5"], "is written as --config.train.steps=VALUE"),
        (["--config=configs/microscopy.py", "--wrkdir=x"], "Unknown command line flag 'wrkdir'"),
        ([], "--config is missing"),
    ],
)
def test_launch_answers_a_mistake_with_one_sentence(arguments, sentence):
    command = [sys.executable, "launch/main.py", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert result.returncode == 2
    assert result.stdout == ""
    assert sentence in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
