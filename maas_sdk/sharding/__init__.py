"""How a model and its batches are laid over devices: the mesh and the rules on it."""
