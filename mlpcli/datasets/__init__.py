"""Data sets: file formats, downloads, splits and preprocessing."""
