"""The rules of the house that a reader relies on: what imports what, who touches the outside, how long a file is."""

import ast
import pathlib
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "rams_jax"

# From the bottom up; a module imports only what stands in lower rows.
FLOORS = (
    ("types", "config", "commandline", "processes", "storage", "memory", "claims"),
    ("annotations", "datasets", "exchange", "dicom", "tables"),
    ("loading", "augment"),
    ("model", "losses", "metrics", "biometry"),
    ("evolution",),
    ("baselines",),
    ("train_step",),
    ("sharding",),
    ("checkpoint",),
    ("instances", "predict", "evaluate"),
    ("blocks", "description", "tuning"),
    ("network",),
    ("canvas", "curves", "figures", "report"),
    ("measure", "overlay", "maps", "results"),
    ("inference", "export"),
    ("window",),
    ("outputs", "experiment", "check"),
    ("finish", "faults"),
    ("train",),
)
FLOOR = {name: floor for floor, row in enumerate(FLOORS) for name in row}
# The neighbours that may be imported all the same.
BESIDE = {
    ("config", "types"),
    ("memory", "types"),
    ("datasets", "annotations"),
    ("exchange", "annotations"),
    ("tables", "annotations"),
    ("datasets", "tables"),
    ("exchange", "tables"),
    ("annotations", "dicom"),
    ("predict", "instances"),
    ("evaluate", "instances"),
    ("evaluate", "predict"),
    ("curves", "canvas"),
    ("figures", "canvas"),
    ("figures", "curves"),
    ("report", "canvas"),
}
# Modules that see neither files nor clocks nor logs.
PURE = ("types", "config", "loading", "augment", "model", "losses", "metrics", "evolution", "baselines", "train_step")
PURE += ("sharding", "instances", "predict", "evaluate", "tuning", "blocks", "measure", "biometry")
OUTSIDE = {"datetime", "io", "logging", "os", "pathlib", "shutil", "subprocess", "tempfile", "time", "tqdm"}

SOURCES = sorted(PACKAGE.rglob("*.py"))
PROGRAMS = [path for name in ("launch", "configs", "benchmarks") for path in sorted((ROOT / name).rglob("*.py"))]
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def module_of(path):
    """`datasets` for everything in rams_jax/datasets, else the module's name."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path):
    """Absolute dotted names of everything that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}: relative imports hide the floor"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_module_imports_only_lower_floors(path):
    module = module_of(path)
    if module == "__init__":
        assert not imports_of(path)
        return
    assert module in FLOOR, f"give {module} a floor in FLOORS"
    for imported in imports_of(path):
        if not imported.startswith("rams_jax."):
            assert imported != "rams_jax"
            continue
        other = imported.split(".")[1]
        if other not in FLOOR:  # such as rams_jax.__version__
            assert other.startswith("__"), f"give {other} a floor in FLOORS"
        elif other != module and (module, other) not in BESIDE:
            assert FLOOR[other] < FLOOR[module], f"{module} is on floor {FLOOR[module]}, {other} on {FLOOR[other]}"


@pytest.mark.parametrize("path", SOURCES + [p for p in PROGRAMS if p.parent.name != "peers"] + TESTS, ids=name_of)
def test_no_file_but_of_other_tools_imports_another_framework(path):
    packages = {name.split(".")[0] for name in imports_of(path)}
    others = {"tensorflow", "keras"} if path.parent.name == "benchmarks" else {"tensorflow", "torch", "keras"}
    assert not packages & others
    if path in SOURCES and module_of(path) != "datasets":
        assert "tensorflow_datasets" not in packages


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_configuration_stays_at_the_edge(path):
    text = path.read_text()
    if module_of(path) not in ("config", "experiment", "train"):
        assert "ConfigDict" not in text
        assert "ml_collections" not in text
    assert "config.get(" not in text


@pytest.mark.parametrize("path", [p for p in SOURCES if module_of(p) in PURE], ids=name_of)
def test_mathematics_touches_nothing_outside(path):
    assert not {name.split(".")[0] for name in imports_of(path)} & OUTSIDE
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"open", "print"}


@pytest.mark.parametrize("path", SOURCES + PROGRAMS + TESTS, ids=name_of)
def test_files_are_short(path):
    assert len(path.read_text().splitlines()) < 400


def test_the_package_imports_quickly():
    def seconds():
        start = time.perf_counter()
        result = run_python("import rams_jax; assert rams_jax.__version__")
        assert result.returncode == 0, result.stderr
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 1.5  # the least of three: other tests keep the cores busy


@pytest.mark.parametrize(
    "rows, absent",
    [
        (FLOORS[2:], ("tensorflow_datasets", "array_record", "tensorflow", "torch")),
        (FLOORS[2:-4], ("tensorflow_datasets", "array_record", "tensorflow", "torch", "clu", "ml_collections")),
    ],
    ids=["without tensorflow_datasets", "without clu and ml_collections either"],
)
def test_modules_above_the_data_sets_import(rows, absent):
    modules = [name for row in rows for name in row]
    code = f"import sys, importlib\nfor name in {absent}: sys.modules[name] = None\n"
    code += f"for name in {modules}: importlib.import_module('rams_jax.' + name)\n"
    result = run_python(code)
    assert result.returncode == 0, result.stderr[-2000:]
