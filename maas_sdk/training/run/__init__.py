"""The run of a trainer: configuration, input pipeline, loop, and checkpoints."""
