"""Settings of the test processes, made before jax is imported anywhere."""

import os
import pathlib
import shutil
import tempfile

import hypothesis

DEVICES = 4

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        f"--xla_force_host_platform_device_count={DEVICES}",
        "--xla_cpu_multi_thread_eigen=false",
        "--xla_backend_optimization_level=0",  # half the time to compile; test_smoke and test_notebook do not say so
    ]
)
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers of pytest -n auto share the cores

# Made by the first process; the workers and the programs that tests start inherit it, so each step is compiled once.
_MADE_CACHE = "JAX_COMPILATION_CACHE_DIR" not in os.environ
if _MADE_CACHE:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="rams_jax_tests_")
# Most programs are small, and there are a hundred of them in each start.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

# The same examples every time: a red test is red again.
hypothesis.settings.register_profile("rams_jax", derandomize=True, deadline=None, database=None, max_examples=50)
hypothesis.settings.load_profile("rams_jax")


def pytest_unconfigure():
    if _MADE_CACHE:
        shutil.rmtree(pathlib.Path(os.environ["JAX_COMPILATION_CACHE_DIR"]), ignore_errors=True)
