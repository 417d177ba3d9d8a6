"""Learning from traces: rollouts, and what is trained on them."""
