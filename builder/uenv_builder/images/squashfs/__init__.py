"""Squashfs images: their on-disk format, and the programs and code that write them."""
