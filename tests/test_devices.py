"""The number of devices changes nothing: eight shards on 1, 2 and 4 devices, and on the 8 of four processes."""

import os
import pathlib
import re
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sharded
import synthetic
import tifffile

HERE = pathlib.Path(__file__).resolve().parent
PROCESSES, MOST = 4, 8
SEVERAL = ["2", "4", "8", "4-in-one-call", "8-in-one-call"]


def start(*arguments):
    environment = os.environ | {"PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, HERE / "sharded.py", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Where tests/sharded.py has written."""
    out = tmp_path_factory.mktemp("runs")
    synthetic.write_folder(out / "folder", images=18)
    tifffile.imwrite(
        synthetic.write_folder(out / "broken", images=18) / "masks" / "disc7.tif", np.eye(9, dtype=np.uint8)
    )
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    started = [start(out, MOST, port, PROCESSES, process) for process in range(PROCESSES)]
    started.append(start(out, "1,2,4"))
    try:
        for process in started:
            said, _ = process.communicate(timeout=1500)
            assert process.returncode == 0, said[-3000:]
    finally:
        for process in started:
            process.kill()
    return out


@pytest.fixture(scope="module")
def runs(out):
    """Leaves of final state and metrics by path, and the compiled program, by the number of devices."""
    return {n: (dict(np.load(out / f"{n}.npz")), (out / f"{n}.txt").read_text()) for n in ["1", *SEVERAL]}


@pytest.mark.parametrize("devices", SEVERAL)
def test_masks_are_equal(runs, devices):
    one, many = runs["1"][0], runs[devices][0]
    for name in ("current", "age", "held", "updates"):
        path = f"['state'].data.masks.{name}"
        np.testing.assert_array_equal(one[path], many[path], name)
    tally = "['state'].data.masks.tally"
    np.testing.assert_allclose(one[tally], many[tally], atol=2)  # a score may round to the next bin


def test_masks_grew_so_that_something_was_compared(runs):
    data = {path.removeprefix("['state'].data."): x for path, x in runs["1"][0].items() if ".data." in path}
    assert (data["masks.current"] > 0).sum() > 1.2 * (data["partial"] > 0).sum()
    # Three slots a shard, one of them strong, take turns; the empty one does too, and stays empty.
    np.testing.assert_array_equal(np.bincount(data["masks.updates"]), [0, 0, sharded.SHARDS * 3])
    assert (~data["inside"].any((1, 2))).sum() == 1 and not (data["masks.current"][~data["inside"]] > 0).any()


@pytest.mark.parametrize("devices", SEVERAL[:3])
def test_parameters_and_metrics_are_close(runs, devices):
    one, many = runs["1"][0], runs[devices][0]
    assert one.keys() == many.keys() and any("metrics" in path for path in one)
    for path in one:
        if ".data." not in path:
            # Sums in another order; Adam divides by small gradients, so differences grow from 1e-7.
            np.testing.assert_allclose(one[path], many[path], rtol=1e-4, atol=5e-5, err_msg=path)


@pytest.mark.parametrize("devices", SEVERAL)
def test_devices_exchange_one_sum(runs, devices):
    kinds = r"(?<![%\w.-])(all-reduce|all-gather|reduce-scatter|all-to-all|collective-\w+)(?:-start)?\("
    found = re.findall(kinds, runs[devices][1])
    assert set(found) == {"all-reduce"}, "images or masks travel between devices"
    assert len(found) == 1, f"{len(found)} sums instead of a combined one"


def test_more_devices_are_no_more_work_for_each():
    def work(shards, devices):  # FLOP of a device; one outlined and three marked images a shard
        examples = [synthetic.example(i, marked=6 if i == 0 else 3) for i in range(1 + 3 * shards)]
        _, state, mesh, step = synthetic.experiment(examples, shards=shards, devices=devices)
        key = jax.jit(lambda: jax.random.key(3), out_shardings=jax.NamedSharding(mesh, jax.P()))()
        options = {"xla_backend_optimization_level": 0}  # spares half the time to compile
        program = step.lower(synthetic.placed(state, mesh), key).compile(compiler_options=options)
        return program.cost_analysis()["flops"]

    one = work(1, 1)
    assert work(4, 4) == pytest.approx(one, rel=0.02)
    assert work(4, 1) > 2 * one, "the count sees no work"


def test_a_process_decodes_its_own_images_and_the_state_is_the_same(out):
    one, many = np.load(out / "data1.npz"), np.load(out / f"data{PROCESSES}.npz")
    assert set(one) == set(many) and len(one) > 20
    for name in one:
        np.testing.assert_array_equal(one[name], many[name], name)
    # Sixteen for training: the outlined one, on every shard, and fifteen that are dealt to eight shards.
    decoded = [int((out / f"decoded{PROCESSES}-{process}").read_text()) for process in range(PROCESSES)]
    assert decoded == [5, 5, 5, 4] and int((out / "decoded1-0").read_text()) == 16


def test_an_image_that_one_process_cannot_use_is_named_by_all(out):
    said = {path.name: path.read_text() for path in out.glob("broken*-*")}
    assert set(said) == {"broken1-0", *(f"broken{PROCESSES}-{process}" for process in range(PROCESSES))}
    assert (
        len(set(said.values())) == 1 and "masks/disc7.tif: 9 x 9 pixels, but disc7.tif has 28 x 40" in said.popitem()[1]
    )


def test_the_guard_of_the_runs_sees_what_comes_from_the_host():
    add = jax.jit(jnp.add)
    first = add(1.0, np.float32(2))
    with jax.transfer_guard("disallow_explicit"):
        add(first, first)
        with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
            add(first, np.float32(2))
