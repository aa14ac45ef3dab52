"""The only package that touches the machine: processes, files, downloads, the store."""
