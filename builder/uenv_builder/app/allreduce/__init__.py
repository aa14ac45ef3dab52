"""The all-reduce that proves an image: on this machine, on its GPUs, and on several nodes."""
