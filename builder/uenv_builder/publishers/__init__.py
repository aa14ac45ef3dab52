"""Where images go: each module knows one kind of place, and puts an image there whole or not at all."""
