"""From feature stores to what learning reads: tokens, manifests, datasets, and where the sounding object is."""
