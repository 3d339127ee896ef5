"""Runs on disk, written and read."""
