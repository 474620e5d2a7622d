"""Files that chance has damaged: readers take them or say a sentence, and quickly. benchmarks/fuzz.py tries more."""

import time

import fuzzing
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CASES = 100
NAMES = (
    "roi", "roi zip", "geojson", "geojson zip", "labelme", "coco", "napari", "tiff", "ome-tiff", "png", "dicom",
    "project.toml", "project.toml, import", "classes.csv", "classes.csv, import", "splits.csv", "network.json",
    "parameters.npz", "config.json", "metrics.jsonl",
)  # fmt: skip


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    pytest.importorskip("pydicom", reason="the extra [dicom] is not installed")
    return fuzzing.readers(tmp_path_factory.mktemp("seeds"))


def test_all_are_tried(readers):
    assert set(readers) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_read_or_refused_in_a_sentence(name, readers, tmp_path):
    reader = readers[name]
    for number, seed in enumerate(reader.seeds):
        folder = tmp_path / f"seed{number}"
        folder.mkdir()
        if name != "config.json":  # of other settings
            assert fuzzing.outcome(reader, folder, seed) == "read"
    found = set()

    # The same cases each time: chance belongs into benchmarks/fuzz.py.
    @settings(max_examples=CASES, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def check(data):
        content = data.draw(fuzzing.damaged(reader.seeds))
        folder = tmp_path / "case"
        folder.mkdir(exist_ok=True)
        began = time.process_time()
        found.add(fuzzing.outcome(reader, folder, content))
        assert time.process_time() - began < 20

    check()
    assert "refused" in found or name == "metrics.jsonl"


@pytest.mark.parametrize(
    "line", ["pixel_size = " + "1" * 5000, 'incomplete = ["' + "x" * 5000 + '"]', "x" * 5000 + " = 1"]
)
@pytest.mark.parametrize("name", ["project.toml", "project.toml, import"])
def test_endless_values_make_no_endless_sentences(name, line, readers, tmp_path):
    found = fuzzing.outcome(readers[name], tmp_path, line.encode() + b"\n")
    assert found == "refused" or name == "project.toml, import"  # which looks at the names of the classes only
