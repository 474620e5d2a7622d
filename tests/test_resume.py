"""A run that was stopped goes on as if it had not been: parameters, masks and metrics to the bit."""

import json
import os
import shutil
import signal
import threading
import time

import jax
import numpy as np
import pytest
import synthetic


def rows(workdir):
    """metrics.jsonl without the times."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def checkpoints(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def saved(workdir, step):
    """Everything in a checkpoint, as NumPy arrays."""
    import orbax.checkpoint as ocp

    from rams_jax import checkpoint

    return checkpoint.open_checkpoints(workdir).restore(step, args=ocp.args.StandardRestore())


@pytest.fixture
def interrupt_after_evaluation(request):
    """Sends Ctrl-C to this process once a run's first scores are written; late ones do no harm."""
    threads = []

    def arm(workdir):
        def wait_and_send():
            path, end = workdir / "metrics.jsonl", time.monotonic() + 300
            while time.monotonic() < end:
                if path.exists() and "val_dice" in path.read_text():
                    os.kill(os.getpid(), signal.SIGINT)
                    return
                time.sleep(0.001)

        threads.append(threading.Thread(target=wait_and_send, daemon=True))
        threads[-1].start()

    previous = signal.signal(signal.SIGINT, lambda *_: None)
    yield arm
    for thread in threads:
        thread.join(timeout=1)
    signal.signal(signal.SIGINT, previous)


def test_stopped_and_gone_on_equals_uninterrupted(tmp_path, interrupt_after_evaluation, capsys):
    from rams_jax import checkpoint, train

    config = synthetic.small_config(synthetic.write_folder(tmp_path / "data"))
    whole, stopped, killed = (tmp_path / name for name in ("whole", "stopped", "killed"))
    train.train(config, whole)
    assert checkpoints(whole) == [20, 40]

    interrupt_after_evaluation(stopped)
    with pytest.raises(train.Interrupted, match=r"saved at step \d+ of 40; the same command goes on from there\.$"):
        train.train(config, stopped)
    step = checkpoints(stopped)[-1]
    assert 20 < step < 40 and not (stopped / "summary.json").exists()
    # What a killed run leaves: the checkpoint of step 20, and rows of the log beyond it.
    shutil.copytree(stopped, killed)
    shutil.rmtree(killed / "checkpoints" / str(step))
    with (killed / "metrics.jsonl").open("a") as file:
        file.write('{"step": 25, "seconds": 1, "loss": 99}\n{"step": 30, "lo')

    expected = saved(whole, 40)
    assert int(expected["step"]) == 40 and np.asarray(expected["masks"]["age"]).max() > 1
    for workdir, first in ((stopped, step), (killed, 20)):
        capsys.readouterr()
        train.train(config, workdir)
        assert f"from step {first} to 40" in capsys.readouterr().out
        found = saved(workdir, 40)
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        assert set(found) == {"step", "params", "ema", "opt_state", "tau", "masks"}
        for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(a, b, err_msg=f"{workdir.name} {jax.tree_util.keystr(path)}")
        for name in ("evolved", "predictions"):
            for path in (whole / name).iterdir():
                assert (workdir / name / path.name).read_bytes() == path.read_bytes()
    assert rows(killed) == rows(whole)
    # The row after the stop is a mean over the steps since then.
    assert [r for r in rows(stopped) if r["step"] != -(-step // 5) * 5] == [
        r for r in rows(whole) if r["step"] != -(-step // 5) * 5
    ]

    # Another configuration is refused, and the folder stays as it is.
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    config.train.learning_rate = 0.02
    with pytest.raises(checkpoint.WorkdirError, match=r"train.learning_rate: 0.01 there, 0.02 now"):
        train.train(config, whole)
    assert before == {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}


def test_several_steps_a_call_are_the_same_run(tmp_path, monkeypatch, capsys):
    """What accelerators do; it stops at a step of the other kind and goes on."""
    from rams_jax import experiment, train

    folder = synthetic.write_folder(tmp_path / "data")
    config = synthetic.small_config(folder, steps=38)  # the last call is a shorter one
    found = {}
    for stride in (1, 5):
        monkeypatch.setattr(experiment, "steps_of_a_call", lambda *_, stride=stride: stride)
        train.train(config, tmp_path / f"by{stride}")
        found[stride] = saved(tmp_path / f"by{stride}", 38)
    one, five = (rows(tmp_path / f"by{stride}") for stride in (1, 5))
    assert [row["step"] for row in one] == [row["step"] for row in five]
    for a, b in zip(one, five, strict=True):
        assert a == pytest.approx(b, abs=2e-3)
    assert checkpoints(tmp_path / "by1") == checkpoints(tmp_path / "by5") == [20, 38]
    for name in ("updates", "current", "age"):
        np.testing.assert_array_equal(*(found[stride]["masks"][name] for stride in (1, 5)), err_msg=name)
    for name in ("params", "ema"):
        for a, b in zip(*(jax.tree.leaves(found[stride][name]) for stride in (1, 5)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)  # XLA fuses a loop in its own way
    assert list(train._calls(3, 12, 5)) == [(3, 5), (5, 10), (10, 12)]
    assert list(train._calls(10, 12, 1)) == [(10, 11), (11, 12)]


def test_a_call_is_as_long_as_the_reports_allow(monkeypatch):
    from types import SimpleNamespace

    from rams_jax import experiment

    config = synthetic.small_config("")
    mesh = SimpleNamespace(devices=np.array([SimpleNamespace(platform="gpu")]))
    for log, evaluate, save, expected in ((5, 20, 20, 5), (50, 100, 350, 10), (7, 14, 10, 1), (16, 16, 48, 8)):
        config.train.log_every, config.train.evaluate_every, config.train.checkpoint_every = log, evaluate, save
        assert experiment.steps_of_a_call(config, mesh) == expected
        assert experiment.steps_of_a_call(config, experiment.sharding.make_mesh(1)) == 1  # of a CPU


def test_images_that_would_lie_elsewhere_are_refused(tmp_path, monkeypatch):
    """Masks in a checkpoint are by place: a start that deals the images to fewer shards must not take them."""
    from rams_jax import checkpoint, train

    config = synthetic.small_config(synthetic.write_folder(tmp_path / "data", images=8))
    config.train.shards, config.train.steps = 0, 4
    train.train(config, tmp_path / "run")
    shards = json.loads((tmp_path / "run" / "config.json").read_text())["train"]["shards"]
    assert shards == jax.device_count() > 2
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    with pytest.raises(checkpoint.WorkdirError, match=rf"\(train\.shards: {shards} there, 2 now\)"):
        train.train(config, tmp_path / "run")
