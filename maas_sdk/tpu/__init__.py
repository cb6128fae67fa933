"""The TPU compiler, in a process beside this one that needs no TPU."""
