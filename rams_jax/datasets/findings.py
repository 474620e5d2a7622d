"""What is wrong with an annotated folder: training stops at the first error, the checker collects everything."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator

from rams_jax.annotations import AnnotationError


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something that spoils training (an error), or may do so (a warning)."""

    code: str  # of its kind, such as reused-id; stays the same from version to version
    path: pathlib.Path  # the file or folder to correct
    sentence: str  # names the file, says what is wrong and what to do
    error: bool


Report = Callable[[Finding], None]  # what a reader does with a finding before it goes on, if it goes on


def error(report: Report, code: str, path: pathlib.Path, wrong: str) -> None:
    """Reports an error with the sentence `PATH: wrong`."""
    report(Finding(code, path, f"{path}: {wrong}", error=True))


def warning(report: Report, code: str, path: pathlib.Path, wrong: str) -> None:
    """Reports a warning with the sentence `PATH: wrong`."""
    report(Finding(code, path, f"{path}: {wrong}", error=False))


@contextlib.contextmanager
def reported(report: Report, code: str, path: pathlib.Path) -> Iterator[None]:
    """Reports an AnnotationError of the block as an error of the same sentence."""
    try:
        yield
    except AnnotationError as problem:
        report(Finding(code, path, str(problem), error=True))


def stop(finding: Finding) -> None:
    """A report that raises errors as an AnnotationError of the same sentence, and passes over warnings."""
    if finding.error:
        raise AnnotationError(finding.sentence)


def keep_warnings(sentences: list[str]) -> Report:
    """A report that raises errors as `stop` does, and adds warnings to `sentences`."""

    def report(finding: Finding) -> None:
        stop(finding)
        sentences.append(finding.sentence)

    return report
