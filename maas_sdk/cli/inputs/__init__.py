"""Arguments of commands as values: arrays from files, rows, models."""
