"""Commands that measure and plan: evaluate, parity, plan, demo."""
