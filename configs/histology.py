"""Nuclei in stained tissue, many of them touching, from one outlined image and marks on the other 59.

The auxiliary tasks are separation, from strokes drawn on some of the places where two nuclei touch, and interior, from
the marks; to go without the first: --config.data.auxiliary="('interior',)". DIR is a local copy, see
rams_jax/datasets/dsb2018.py; without it RAMS_DATA names one, or the images are downloaded.

Command:   python launch/main.py --config=configs/histology.py --config.data.source=DIR
In short:  the same with configs/histology.py:smoke: a trial of a minute or two, and the scores mean little.
Hardware:  2 CPU cores and 4 GiB of memory; takes a GPU or TPU where jax finds one.
Time:      meant for 10 minutes on 2 cores; what it took on one is in the cells below.
Score:     in benchmarks/results/histology.
"""

from ml_collections import ConfigDict

from rams_jax import config as settings


def get_config(arg: str = "") -> ConfigDict:
    """The settings of the experiment; `arg` is what follows the colon: nothing, or `smoke`."""
    if arg not in ("", "smoke"):
        raise settings.ConfigError(f"configs/histology.py has no variant {arg!r}; it has 'smoke', or none.")
    config = settings.default()
    config.data.name = "histology"
    config.data.channels = (0, 1, 2)
    config.model.depth = 4  # nuclei are up to 60 pixels long
    config.augment.crop = 104
    config.train.steps = 480
    config.evolution.images_per_step = 1  # whole images: as few as there can be
    config.evolution.reach = 6  # an image takes eight turns only
    if arg == "smoke":
        settings.shorten(config)
    config.lock()
    return config
