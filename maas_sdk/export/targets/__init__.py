"""Targets: what executables are compiled for, and the processes that compile and run them."""
