"""Images: references, blobs, layers, objects, registries, archives."""
