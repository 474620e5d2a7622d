"""Every experiment loads, makes sense, and starts from the defaults."""

import importlib.util
import pathlib

import pytest

from rams_jax import config as settings

CONFIGS = sorted((pathlib.Path(__file__).resolve().parent.parent / "configs").glob("*.py"))
CONFIGS = [path for path in CONFIGS if path.stem != "folder"]  # its variants are paths: see test_folder_config.py
VARIANTS = dict.fromkeys(("microscopy", "histology", "fluorescence", "ultrasound", "food_sem"), ("", "smoke"))


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_experiments_are_listed_here():
    assert sorted(VARIANTS) == [path.stem for path in CONFIGS]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_experiment(path):
    module = load(path)
    for variant in VARIANTS[path.stem]:
        config = module.get_config(variant)
        settings.validate(config)
        assert config.is_locked
        with pytest.raises((AttributeError, KeyError)):
            config.train.stepz = 5
        assert settings.flatten(config).keys() == settings.flatten(settings.default()).keys()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_docstring_tells_command_hardware_time_and_score(path):
    text = load(path).__doc__
    for line in ("Command:", "Hardware:", "Time:", "Score:"):
        assert line in text
    assert f"--config=configs/{path.name}" in text


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_unknown_variant_is_one_sentence(path):
    with pytest.raises(settings.ConfigError, match=f"configs/{path.name} has no variant 'smokey'"):
        load(path).get_config("smokey")


@pytest.mark.parametrize(
    "path", [path for path in CONFIGS if "smoke" in VARIANTS.get(path.stem, ())], ids=lambda p: p.stem
)
def test_smoke_is_the_same_experiment_made_small(path):
    module = load(path)
    full, smoke = settings.flatten(module.get_config()), settings.flatten(module.get_config("smoke"))
    changed = {key for key in full if full[key] != smoke[key]}
    assert {key.split(".")[0] for key in changed} <= {"model", "augment", "train"}
    assert smoke["train.steps"] <= full["train.steps"] // 2
