"""Slurm batch scripts: reading and judging them, without running anything."""
