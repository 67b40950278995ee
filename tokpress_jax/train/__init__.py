"""Training: tasks, mesh, step, loop, checkpoints."""
