"""Everything that can be decided without touching the machine: text and values in, text and values out."""
