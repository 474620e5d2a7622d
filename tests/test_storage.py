"""A file is there whole or as it was; where it cannot be written the run says so and keeps what it has."""

import errno
import os
import pathlib
import resource
import shutil
import subprocess
import sys

import pytest
import synthetic
from test_checkpoint import abstract, assert_same_bits, make_tree

from rams_jax import checkpoint, experiment, storage, train

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_a_file_is_replaced_whole(tmp_path):
    storage.write_whole(tmp_path / "a", "one")
    storage.write_whole(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"two" and os.listdir(tmp_path) == ["a"]


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="no /dev/full here")
def test_on_a_full_disk_the_old_file_stays(tmp_path):
    storage.write_whole(tmp_path / "a", "old")
    (tmp_path / "a.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError) as error:
        storage.write_whole(tmp_path / "a", "new" * 10_000)
    assert error.value.errno == errno.ENOSPC
    assert (tmp_path / "a").read_text() == "old" and os.listdir(tmp_path) == ["a"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # orbax's, about what it gave up
def test_a_checkpoint_for_which_there_is_no_room_leaves_the_one_before(tmp_path):
    manager = checkpoint.open_checkpoints(tmp_path)
    checkpoint.save(manager, 1, make_tree(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        with pytest.raises(checkpoint.WorkdirError, match=r"checkpoint of step 2 cannot be written to .*; make room"):
            checkpoint.save(manager, 2, make_tree(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    manager.close()
    manager = checkpoint.open_checkpoints(tmp_path)
    assert_same_bits(checkpoint.restore(manager, abstract(make_tree(0))), make_tree(1))
    checkpoint.save(manager, 2, make_tree(2))
    assert_same_bits(checkpoint.restore(manager, abstract(make_tree(0))), make_tree(2))


@pytest.fixture
def obedient():
    """What a command begins with to respect the modes of files, which root by itself does not."""
    if os.geteuid():
        return []
    if not shutil.which("setpriv"):
        pytest.skip("root may write anywhere, and there is no setpriv here")
    return ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override"]


def test_where_nothing_may_be_written_a_run_says_so_and_changes_nothing(tmp_path, obedient):
    folder, kept = synthetic.write_folder(tmp_path / "data"), tmp_path / "kept"
    experiments = tmp_path / "small.py"
    experiments.write_text(
        f"import sys\nsys.path.append({str(ROOT / 'tests')!r})\nimport synthetic\n"
        f"def get_config():\n    return synthetic.small_config({str(folder)!r}, steps=8)\n"
    )
    config = synthetic.small_config(folder, steps=8)
    run, state, _ = experiment.prepare(config)
    manager = checkpoint.open_checkpoints(checkpoint.open_workdir(kept, config.to_dict()))
    checkpoint.save(manager, 1, train._changing(run, state))
    manager.close()

    places = [kept, *kept.rglob("*"), tmp_path]
    before = {path: path.read_bytes() for path in places if path.is_file()}
    modes = {path: path.stat().st_mode for path in places}
    try:
        for path, mode in modes.items():
            path.chmod(mode & ~0o222)
        for workdir, said in ((tmp_path / "new", "used: Permission denied"), (kept, "Permission denied; put")):
            command = [*obedient, sys.executable, "launch/main.py", f"--config={experiments}", f"--workdir={workdir}"]
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
            (sentence,) = done.stderr.splitlines()
            assert done.returncode == 2 and str(workdir) in sentence and said in sentence
    finally:
        for path, mode in modes.items():
            path.chmod(mode)
    assert before == {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()}
    assert not (tmp_path / "new").exists()
