"""Over-optimisation of a reward: proxy and gold reward along the checkpoints of runs."""
