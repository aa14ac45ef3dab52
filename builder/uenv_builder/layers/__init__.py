"""Layers as streams of entries, made straight from artefacts: nothing is unpacked to be packed again."""
