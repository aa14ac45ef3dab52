"""Builds, locks and proves user environments for HPC and machine learning."""

__version__ = "0.1.0"
