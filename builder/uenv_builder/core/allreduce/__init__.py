"""The all-reduce that proves an image on real nodes: what is expected, what was seen, and the verdict."""
