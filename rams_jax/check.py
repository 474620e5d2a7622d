"""A look at an annotated folder before training: everything that would spoil it, with the file and the remedy.

It reads with the functions that training reads with (`datasets.folder`), which stop at the first error; here all
findings are collected. Errors make training stop; warnings are printed by it.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections import Counter
from typing import Any

from rams_jax.datasets.findings import Finding
from rams_jax.datasets.folder import read_images
from rams_jax.datasets.layout import open_folder


@dataclasses.dataclass(frozen=True)
class Check:
    """What a folder holds and what is wrong with it."""

    path: pathlib.Path
    images: dict[str, int]  # how many there are that can be used: all, and by split and kind of annotation
    findings: tuple[Finding, ...]  # errors first, otherwise in the order of reading

    @property
    def errors(self) -> int:
        return sum(finding.error for finding in self.findings)

    @property
    def warnings(self) -> int:
        return len(self.findings) - self.errors


def check(path: pathlib.Path | str, seed: int = 0) -> Check:
    """Reads all of a folder and collects the findings.

    Args:
      path: laid out as `datasets.folder` says.
      seed: of training, which deals the images to train, validation and test where there is no splits.csv.
    """
    path = pathlib.Path(path)
    findings: list[Finding] = []
    images: Counter[str] = Counter()
    folder = open_folder(path, seed, findings.append)
    if folder is not None:
        for reading in read_images(folder, findings.append):
            kind = "outlined" if reading.full is not None else "marked"
            images.update(["all", reading.entry.split, f"{reading.entry.split}, {kind}"])
    return Check(path, dict(images), tuple(sorted(findings, key=lambda finding: not finding.error)))


def lines(result: Check) -> list[str]:
    """The findings as a person reads them, one a line, and a summary."""
    told = [f"{'error' if f.error else 'warning'} [{f.code}] {f.sentence}" for f in result.findings]
    count = result.images.get
    held = (
        f"{count('all', 0)} images can be used: {count('train, outlined', 0)} outlined and {count('train, marked', 0)} "
        f"marked to train, {count('validation', 0)} for validation, {count('test', 0)} for the test."
    )
    verdict = f"{_counted(result.errors, 'error')}, {_counted(result.warnings, 'warning')}."
    return [*told, f"{result.path}: {held}", verdict]


def as_json(result: Check) -> dict[str, Any]:
    """The findings for programs; `file` is relative to the folder where it lies in it."""
    return {
        "folder": str(result.path),
        "images": result.images,
        "errors": result.errors,
        "warnings": result.warnings,
        "findings": [
            {
                "severity": "error" if f.error else "warning",
                "code": f.code,
                "file": (f.path.relative_to(result.path) if f.path.is_relative_to(result.path) else f.path).as_posix(),
                "sentence": f.sentence,
            }
            for f in result.findings
        ],
    }


def _counted(number: int, word: str) -> str:
    return f"{number or 'no'} {word}{'' if number == 1 else 's'}"
