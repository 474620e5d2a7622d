"""Nuclei in real fluorescence microscopy, from one outlined image and marks on the other 239. The default experiment.

Command:   python launch/main.py --config=configs/microscopy.py
In short:  the same with configs/microscopy.py:smoke: meant for under 60 seconds, and the scores mean little.
Hardware:  2 CPU cores and 4 GiB of memory; takes a GPU or TPU where jax finds one.
Time:      at most 10 minutes on 2 cores; what it took is in the cells below.
Score:     the measured scores, with seeds, times and machine, are in benchmarks/results/microscopy.
"""

from ml_collections import ConfigDict

from rams_jax import config as settings


def get_config(arg: str = "") -> ConfigDict:
    """The settings of the experiment; `arg` is what follows the colon: nothing, or `smoke`."""
    if arg not in ("", "smoke"):
        raise settings.ConfigError(f"configs/microscopy.py has no variant {arg!r}; it has 'smoke', or none.")
    config = settings.default()
    if arg == "smoke":
        settings.shorten(config)
        config.augment.crop = 32
        config.train.steps = 240
        config.train.evaluate_every = config.train.checkpoint_every = 120
    config.lock()
    return config
