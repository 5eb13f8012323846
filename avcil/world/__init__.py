"""The rendered world: scenes, the embedded benchmark, and the pre-training of its prior."""
