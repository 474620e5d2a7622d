"""Fetal heads in ultrasound, from 1 outlined patient and marks on 203 others, with the head circumference in mm.

Every training image is of another patient. The auxiliary task is verified background, from a few strokes beside the
head. The report compares the circumference of the predicted head with the one that a sonographer measured. DIR is a
local copy, see rams_jax/datasets/hc18.py; without it RAMS_DATA names one, or the images are downloaded.

Command:   python launch/main.py --config=configs/ultrasound.py --config.data.source=DIR
In short:  the same with configs/ultrasound.py:smoke: a trial of a minute or two, and the scores mean little.
Hardware:  2 CPU cores and 4 GiB of memory; takes a GPU or TPU where jax finds one.
Time:      meant for 10 minutes on 2 cores; what it took is in the cells below.
Score:     in benchmarks/results/ultrasound.
"""

from ml_collections import ConfigDict

from rams_jax import config as settings


def get_config(arg: str = "") -> ConfigDict:
    """The settings of the experiment; `arg` is what follows the colon: nothing, or `smoke`."""
    if arg not in ("", "smoke"):
        raise settings.ConfigError(f"configs/ultrasound.py has no variant {arg!r}; it has 'smoke', or none.")
    config = settings.default()
    config.data.name = "ultrasound"
    config.data.auxiliary = ("background",)
    config.data.class_names = ("head",)
    config.model.width = 8
    config.model.depth = 5  # a head is about 100 pixels long
    config.augment.crop = 160  # a head with what surrounds it
    config.augment.rotation = 45.0  # the sound comes from above
    config.augment.elastic = 3.0
    config.augment.elastic_grid = 32
    config.train.strong_crops = 2
    config.train.weak_crops = 2
    config.train.steps = 900
    config.evolution.images_per_step = 2
    config.evolution.end = 0.7
    config.evolution.reach = 20  # an image takes nine turns only
    config.evolution.size_prior = 3.0  # a small head beside dark fluid leaks far
    config.instances.marker_sigma = 6.0
    config.instances.marker_depth = 0.5
    config.instances.min_area = 200
    if arg == "smoke":
        settings.shorten(config)
    config.lock()
    return config
