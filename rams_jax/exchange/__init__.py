"""Annotations from and for the tools that people draw with.

The way in: `reading` (files, formats) -> `imagej`, `qupath`, `napari`, `labelme`, `coco` (drawings) -> `shapes`
(pixels) -> `importing` (the folder to train from). The way out: `exporting` -> `outlines` -> `imagej`, `qupath`.
"""

# Of annotation files that can be read.
FORMATS = ("roi", "geojson", "napari", "labelme", "coco", "labels")
# Where in the folder each kind of annotation goes.
FOLDERS = {
    "full": "masks",
    "partial": "partial",
    "interfaces": "interfaces",
    "boundaries": "boundaries",
    "background": "background",
}
# Of files that can be written, with their endings.
ENDINGS = {"roi": ".zip", "geojson": ".geojson", "labels": ".tif"}
