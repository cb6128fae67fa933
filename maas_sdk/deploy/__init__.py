"""From a bundle to what a cloud runs, and how long that takes to start."""
