"""Facts as YAML, each with its source: micro-architectures, systems, and what works together with what."""
