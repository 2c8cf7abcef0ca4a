"""What a policy's log-ratio to its start gives to each token of a response."""
