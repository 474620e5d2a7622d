"""What the description of a trained network, its `network.json`, must say for the network to be used."""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Callable
from typing import Any

FORMAT = 1  # raised when older programs can no longer read a network
REMEDY = "copy the folder again from where it was trained"
_DTYPES = ("float32", "bfloat16")
_LONGEST = 2**20  # bytes
_MANY = 1000  # classes, channels, characters of a name: more is a mistake


class NetworkError(ValueError):
    """A folder holds no network that can be used; the message is one sentence that names it and says what to do."""


def read_description(path: pathlib.Path) -> dict[str, Any]:
    """Reads and checks a description; every value that `rams_jax.network` uses is there and possible.

    Raises:
      NetworkError: it cannot be read, is of a newer format, or says something impossible; the first mistake found.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_LONGEST + 1)
        description = json.loads(text[:_LONGEST])
    except OSError as error:
        raise NetworkError(f"{path}: cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise NetworkError(f"{path}: is damaged: no JSON, or too long; {REMEDY}.") from error
    if not isinstance(description, dict) or type(description.get("format")) is not int:
        raise NetworkError(f"{path}: describes no network; give the workdir of a finished run.")
    if description["format"] != FORMAT:
        raise NetworkError(
            f"{path}: has format {description['format']}, but this version of rams_jax reads format {FORMAT}; "
            "install the version that trained it."
        )
    for key, (allowed, test) in _RULES.items():
        value = _value(path, description, key)
        if not test(value):
            shown = repr(value) if len(repr(value)) < 100 else f"{repr(value)[:100]}..."
            raise NetworkError(f"{path}: {key} is {shown}, but must be {allowed}; {REMEDY}.")
    for section, fields in _FIELDS.items():
        unknown = sorted(set(description[section]) - fields)
        if unknown:
            raise NetworkError(f"{path}: {section} says {unknown[0]}, which this version does not know; {REMEDY}.")
    model, auxiliary = description["model"], description["auxiliary"]
    if model["own_levels"] >= model["depth"]:
        raise NetworkError(f"{path}: model.own_levels is {model['own_levels']}, but must be below depth; {REMEDY}.")
    for name in ("mean", "std"):
        if len(model[name]) not in (1, len(description["channels"])):
            raise NetworkError(f"{path}: model.{name} is not of as many numbers as there are channels; {REMEDY}.")
    for name in ("dividing", "beginning"):
        if max(description["instances"][name], default=-1) >= auxiliary["channels"]:
            raise NetworkError(f"{path}: instances.{name} names an auxiliary channel that is not there; {REMEDY}.")
    return description


def _value(path: pathlib.Path, description: dict[str, Any], key: str) -> Any:
    value: Any = description
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            raise NetworkError(f"{path}: {key} is missing; {REMEDY}.")
        value = value[part]
    return value


# What a value may be, in words and as a test.
_Rule = tuple[str, Callable[[Any], bool]]


def _integer(low: int, high: int) -> _Rule:
    return f"an integer from {low} to {high}", lambda value: type(value) is int and low <= value <= high


def _number(allowed: str, test: Callable[[float], bool]) -> _Rule:
    return allowed, lambda value: type(value) in (int, float) and math.isfinite(value) and test(value)


def _different(allowed: str, test: Callable[[Any], bool], least: int) -> _Rule:
    def fits(value: Any) -> bool:
        return (
            isinstance(value, list)
            and least <= len(value) <= _MANY
            and all(test(item) for item in value)
            and len(set(value)) == len(value)
        )

    return f"a list of {least} or more different {allowed}", fits


def _is_index(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MANY


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MANY


def _are_numbers(value: Any, least: float) -> bool:
    fits = isinstance(value, list) and 0 < len(value) <= _MANY
    return fits and all(type(v) in (int, float) and math.isfinite(v) and least <= v <= 1e9 for v in value)


def _is_percentiles(value: Any) -> bool:
    numbers = isinstance(value, list) and len(value) == 2 and all(type(v) in (int, float) for v in value)
    return numbers and 0 <= value[0] < value[1] <= 100


_RULES: dict[str, _Rule] = {
    "model.width": _integer(1, 4096),
    "model.depth": _integer(1, 10),
    "model.own_levels": _integer(0, 9),
    "model.dtype": (f"one of {', '.join(_DTYPES)}", lambda value: value in _DTYPES),
    "model.mean": ("a list of numbers", lambda value: _are_numbers(value, -1e9)),
    "model.std": ("a list of numbers above 0", lambda value: _are_numbers(value, 1e-9)),
    "class_names": _different("names", _is_name, 1),
    "auxiliary.tasks": _different("names", _is_name, 0),
    "auxiliary.channels": _integer(0, _MANY),
    "channels": _different("integers from 0", _is_index, 1),
    "normalisation.percentiles": ("two numbers from 0 to 100, the smaller first", _is_percentiles),
    "averaged": ("true or false", lambda value: isinstance(value, bool)),
    "instances.threshold": _number("a number from 0 to 1", lambda value: 0 <= value <= 1),
    "instances.marker_sigma": _number("a number from 0 to 1000", lambda value: 0 <= value <= 1000),
    "instances.marker_depth": _number("a number of at least 0 and below 1", lambda value: 0 <= value < 1),
    "instances.min_area": _integer(0, 2**31 - 1),
    "instances.dividing": _different("integers from 0", _is_index, 0),
    "instances.beginning": _different("integers from 0", _is_index, 0),
    "training.pixel_size": _number("a number above 0", lambda value: value > 0),
    "training.largest_object": _integer(0, 2**31 - 1),
    "card": ("an object", lambda value: isinstance(value, dict)),
    "parameters.sha256": ("a text", lambda value: isinstance(value, str)),
}
# Sections that become settings, so that a field too many would be a mistake.
_FIELDS = {
    section: {key.partition(".")[2] for key in _RULES if key.startswith(f"{section}.")}
    for section in ("model", "instances")
}
