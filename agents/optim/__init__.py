"""Optimisers of policies: first-order methods and L-BFGS."""
