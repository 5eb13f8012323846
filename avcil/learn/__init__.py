"""The paper's method and what it needs to learn: model, losses, objective, memory, heads, training, evaluation."""
