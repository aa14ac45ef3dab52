"""Use cases of `uenv ci`."""
