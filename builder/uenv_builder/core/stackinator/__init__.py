"""Recipes of Stackinator: read as they are written, and said in this project's own recipe format."""
