"""Where artefacts come from: queries for the lock, and downloads by hash for the build."""
