"""What cannot work together, or not here: small functions over a recipe, its lock and a system, and their stories."""
