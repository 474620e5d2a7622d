"""The folder of a run belongs to one configuration, and what was saved comes back to the bit, or not at all."""

import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from rams_jax import checkpoint

SETTINGS = {"method": "rams", "train": {"steps": 40}, "data": {"mark_coverage": (0.15, 0.4)}}


def make_tree(seed):
    """A small state with every dtype that a training state has."""
    kernel, bias = jax.random.normal(jax.random.key(seed), (2, 3, 8))
    params = {"conv": {"kernel": kernel, "bias": bias.astype(jnp.bfloat16)}}
    return {
        "step": jnp.int32(seed),
        "params": params,
        "opt_state": optax.adamw(1e-3).init(params),
        "masks": jax.random.randint(jax.random.key(seed), (4, 6, 5), -1, 400).astype(jnp.int16),
        "held": jax.random.bernoulli(jax.random.key(seed), 0.5, (4, 7)),
        "odd": jnp.array([jnp.nan, -0.0, jnp.inf, 1e-42], jnp.float32),
    }


def abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


def assert_same_bits(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def save_steps(workdir, *steps):
    manager = checkpoint.open_checkpoints(workdir)
    for step in steps:
        checkpoint.save(manager, step, make_tree(step))
    manager.close()


def restore(workdir):
    manager = checkpoint.open_checkpoints(workdir)
    found = checkpoint.restore(manager, abstract(make_tree(0)))
    left = sorted(manager.all_steps())
    manager.close()
    return found, left


def data_files(workdir, step):
    files = [path for path in (workdir / "checkpoints" / str(step)).rglob("*") if path.is_file()]
    return sorted((path for path in files if path.stat().st_size), key=lambda path: path.stat().st_size)


def test_round_trip_to_the_bit(tmp_path):
    save_steps(tmp_path, 3)
    found, _ = restore(tmp_path)
    assert_same_bits(found, make_tree(3))


def test_nothing_saved_gives_none(tmp_path):
    assert restore(tmp_path) == (None, [])


def test_the_last_two_are_kept_and_the_newest_is_read(tmp_path):
    save_steps(tmp_path, 2, 9, 10)
    found, left = restore(tmp_path)
    assert left == [9, 10]
    assert_same_bits(found, make_tree(10))


def test_a_saved_step_is_left_as_it_is(tmp_path):
    save_steps(tmp_path, 4)
    manager = checkpoint.open_checkpoints(tmp_path)
    checkpoint.save(manager, 4, make_tree(5))
    assert_same_bits(checkpoint.restore(manager, abstract(make_tree(0))), make_tree(4))
    manager.close()


def test_donating_what_was_saved_does_not_change_it(tmp_path):
    tree = make_tree(1)
    manager = checkpoint.open_checkpoints(tmp_path)
    checkpoint.save(manager, 1, tree)
    jax.jit(lambda t: jax.tree.map(jnp.zeros_like, t), donate_argnums=0)(tree)
    assert_same_bits(checkpoint.restore(manager, abstract(make_tree(0))), make_tree(1))
    manager.close()


def test_arrays_go_where_the_abstract_tree_says(tmp_path):
    """Saved from one device, read onto four, and back."""
    save_steps(tmp_path, 6)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    split, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())

    def place(path, x):
        sharding = split if path[0].key in ("masks", "held") else whole
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    manager = checkpoint.open_checkpoints(tmp_path)
    found = checkpoint.restore(manager, jax.tree_util.tree_map_with_path(place, make_tree(0)))
    assert found["masks"].sharding == split
    assert len(found["params"]["conv"]["kernel"].sharding.device_set) == 4
    assert_same_bits(found, make_tree(6))
    checkpoint.save(manager, 7, found)
    assert_same_bits(checkpoint.restore(manager, abstract(make_tree(0))), make_tree(6))
    manager.close()


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
@pytest.mark.parametrize("which", ["largest", "smallest"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, damage, which):
    save_steps(tmp_path, 1, 2)
    victim = data_files(tmp_path, 2)[-1 if which == "largest" else 0]
    content = victim.read_bytes()
    if damage == "truncated":
        victim.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        middle = len(content) // 2
        victim.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    else:
        victim.unlink()
    with pytest.warns(UserWarning, match="checkpoint of step 2 is damaged; going on from step 1"):
        found, left = restore(tmp_path)
    assert left == [1]
    assert_same_bits(found, make_tree(1))
    save_steps(tmp_path, 2)  # the run comes by that step again
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same_bits(restore(tmp_path)[0], make_tree(2))


def test_when_all_are_damaged_it_says_so_and_deletes_none(tmp_path):
    save_steps(tmp_path, 1, 2)
    for step in (1, 2):
        data_files(tmp_path, step)[-1].write_bytes(b"")
    with pytest.raises(checkpoint.WorkdirError, match="All checkpoints in .* are damaged"):
        restore(tmp_path)
    assert all((tmp_path / "checkpoints" / str(step)).is_dir() for step in (1, 2))


def test_what_a_killed_process_left_is_deleted(tmp_path):
    save_steps(tmp_path, 1)
    (tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp" / "default").mkdir(parents=True)
    (tmp_path / "checkpoints" / "3").mkdir()  # killed between orbax's last word and ours
    found, left = restore(tmp_path)
    assert left == [1]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["1"]
    assert_same_bits(found, make_tree(1))


def test_saving_and_reading_say_nothing(tmp_path, capfd):
    save_steps(tmp_path, 1, 2)
    restore(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_a_new_workdir_receives_its_settings(tmp_path):
    path = checkpoint.open_workdir(tmp_path / "runs" / "a", SETTINGS)
    assert path == tmp_path / "runs" / "a"
    assert json.loads((path / "config.json").read_text()) == json.loads(json.dumps(SETTINGS))
    assert [entry.name for entry in path.iterdir()] == ["config.json"]


def test_the_same_settings_go_on_and_change_nothing(tmp_path):
    path = checkpoint.open_workdir(tmp_path, SETTINGS)
    (path / "metrics.jsonl").write_text("{}\n")
    before = (path / "config.json").stat().st_mtime_ns
    assert checkpoint.open_workdir(tmp_path, SETTINGS) == path
    assert (path / "config.json").stat().st_mtime_ns == before
    assert (path / "metrics.jsonl").read_text() == "{}\n"


def test_other_settings_are_refused_and_the_difference_named(tmp_path):
    path = checkpoint.open_workdir(tmp_path, SETTINGS)
    before = (path / "config.json").read_text()
    other = {"method": "rams", "train": {"steps": 80, "ema": 0.9}, "data": {"mark_coverage": (0.15, 0.4)}}
    with pytest.raises(checkpoint.WorkdirError) as error:
        checkpoint.open_workdir(tmp_path, other)
    assert "train.steps: 40 there, 80 now; train.ema: absent there, 0.9 now" in str(error.value)
    assert "method" not in str(error.value) and "mark_coverage" not in str(error.value)
    assert (path / "config.json").read_text() == before


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(checkpoint.WorkdirError, match="holds 'thesis.tex' but no config.json"):
        checkpoint.open_workdir(tmp_path, SETTINGS)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("content, sentence", [("{", "is not JSON"), ("[]", "holds no settings")])
def test_an_unreadable_config_is_refused(tmp_path, content, sentence):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(checkpoint.WorkdirError, match=sentence):
        checkpoint.open_workdir(tmp_path, SETTINGS)
    assert (tmp_path / "config.json").read_text() == content


def test_a_file_is_no_workdir(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(checkpoint.WorkdirError, match="is a file"):
        checkpoint.open_workdir(tmp_path / "file", SETTINGS)
    with pytest.raises(checkpoint.WorkdirError, match="cannot be used"):
        checkpoint.open_workdir(tmp_path / "file" / "below", SETTINGS)


def test_a_first_start_that_was_killed_does_not_block_the_second(tmp_path):
    (tmp_path / "config.json.tmp").write_text('{"method": ')
    checkpoint.open_workdir(tmp_path, SETTINGS)
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.json"]
