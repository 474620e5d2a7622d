"""Killed amid the steps, a save and the report, a run ends with the same bits; benchmarks/kills.py kills more."""

import importlib.util
import pathlib
import sys

import pytest
import synthetic

ROOT = pathlib.Path(__file__).resolve().parents[1]


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_killed_three_times_and_the_same_in_the_end(tmp_path):
    from rams_jax import train

    kills = load("benchmarks_kills", ROOT / "benchmarks" / "kills.py")
    folder, workdir, whole = synthetic.write_folder(tmp_path / "data"), tmp_path / "run", tmp_path / "whole"
    config = load("configs_microscopy", ROOT / "configs" / "microscopy.py").get_config()
    with config.unlocked():
        config.update_from_flattened_dict(kills.SETTINGS | {"data.source": str(folder)})
    train.train(config, whole)

    moments = [kills.at_row(25, 0.0), kills.at_phase("saving", 0.0), kills.amid_file("report", "report.html")]
    hits = [kills.run(folder, workdir, moment) for moment in moments]
    assert None not in hits and hits[-1] == "report.html.tmp", hits
    assert b"<html" in (workdir / hits[-1]).read_bytes() and not (workdir / "report.html").exists()
    assert kills.torn(workdir) == []
    assert kills.run(folder, workdir) is None
    assert kills.differences(workdir, whole) == []


@pytest.mark.parametrize(
    ("hit", "phase"),
    [
        ("nothing", "start"),
        ("metrics.jsonl", "steps"),
        ("checkpoints/50.orbax-checkpoint-tmp/_CHECKPOINT_METADATA", "writing checkpoints"),
        ("checkpoints/50/_CHECKPOINT_METADATA", "writing checkpoints"),  # before its digests
        ("checkpoints/50/digests.json", "after checkpoints"),
        ("figures/curves.png.tmp", "writing figures"),
        ("report.html.tmp", "writing report.html"),
        ("summary.json", "after summary.json"),
    ],
)
def test_what_a_run_was_at(hit, phase):
    assert load("benchmarks_kills", ROOT / "benchmarks" / "kills.py").phase_of(hit) == phase


def test_what_a_cluster_sends_is_answered_soon(tmp_path):
    kills = load("benchmarks_kills", ROOT / "benchmarks" / "kills.py")
    folder, workdir = synthetic.write_folder(tmp_path / "data"), tmp_path / "run"
    seconds, code = kills.stop(folder, workdir)
    assert code == 130 and seconds < 30
    assert any((path / "digests.json").exists() for path in (workdir / "checkpoints").iterdir())
