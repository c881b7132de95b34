"""A rehearsal of the paper's studies on tiny models and local tasks, which runs on any machine in a few minutes."""
