"""Training of the shipped policy and judge."""
