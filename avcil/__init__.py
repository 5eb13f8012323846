"""Audio-visual class-incremental learning: guided attention and dual-level distillation."""
