"""What `uenv explain RECIPE COMPONENT` finds out."""
