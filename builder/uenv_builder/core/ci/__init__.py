"""Pipelines of CI: what they build, where each part runs, and what of it has changed."""
