"""Segmentation from a few full masks and many partial ones, by recursive approximation tasks."""

__version__ = "0.1.0"
