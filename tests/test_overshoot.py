"""Masks that run over the boundary, or stall, do not pass unnoticed: the scores fall and the report says so."""

import pytest
import synthetic


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return synthetic.write_folder(tmp_path_factory.mktemp("data") / "discs", images=7)


def run(folder, workdir, **evolution):
    from rams_jax import train

    config = synthetic.small_config(folder, steps=150)
    config.train.log_every = config.train.evaluate_every = config.train.checkpoint_every = 150
    config.evolution.update(evolution)
    summary = train.train(config, workdir)
    return summary, (workdir / "report.html").read_text()


def test_an_honest_run_grows_to_the_boundary(folder, tmp_path):
    summary, _ = run(folder, tmp_path / "run")
    assert summary["masks"]["precision"] > 0.9 and summary["masks"]["recall"] > 0.75, summary["masks"]
    assert not [w for w in summary["warnings"] if "leak:" in w or "stalled" in w]


def test_overshooting_is_noticed(folder, tmp_path):
    summary, report = run(folder, tmp_path / "run", coverage=2.0, max_area_factor=1.1, tau_min=0.01)
    assert summary["masks"]["precision"] < 0.85, summary["masks"]
    assert any("brake held" in w or "leak:" in w for w in summary["warnings"]), summary["warnings"]
    assert all(w in report for w in summary["warnings"])


def test_stalling_is_noticed(folder, tmp_path):
    # With a size that marks foretell, what lags behind would go below the least score.
    summary, report = run(folder, tmp_path / "run", tau_min=1.0, size_prior=0.0)
    assert summary["masks"]["precision"] > 0.99 and summary["masks"]["recall"] < 0.5, summary["masks"]
    assert any("stalled" in w for w in summary["warnings"]), summary["warnings"]
    assert "stalled" in report
