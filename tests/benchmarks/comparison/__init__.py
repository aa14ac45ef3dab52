"""What `compare_with_tools.py` is made of: the sides, the cases that both run, the figures, and what is printed."""
