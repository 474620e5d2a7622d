"""A file is there whole or as it was; where it cannot be written the run says so and keeps what it has."""

import errno
import os
import pathlib
import resource

import pytest
from test_checkpoint import abstract, assert_same_bits, make_tree

from rams_jax import checkpoint, storage


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
