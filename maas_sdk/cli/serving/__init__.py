"""Commands that answer: serve, predict, batch, bench."""
