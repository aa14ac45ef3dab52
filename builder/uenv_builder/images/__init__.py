"""From a list of layers to images: the squashfs and the OCI layout, both of the same content."""
