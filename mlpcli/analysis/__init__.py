"""Evaluation, prediction, export, plots and reports of trained networks."""
