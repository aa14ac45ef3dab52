"""Batch jobs of Slurm that run the builder's own verbs on other nodes, and outlive whoever submitted them."""
