"""Registries that are written to (OCI distribution specification 1.1): blobs, manifests, tags, referrers, channels."""
