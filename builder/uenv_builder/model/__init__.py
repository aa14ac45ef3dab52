"""What the parts of the builder hand to each other: immutable, free of input and output."""
