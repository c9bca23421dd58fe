"""Liver and liver tumor segmentation in CT, without Slicer. Not for clinical use."""

__version__ = "0.1.0"
