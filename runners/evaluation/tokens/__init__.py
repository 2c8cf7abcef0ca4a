"""Credit of each token of a response: its log-ratio to the start."""
