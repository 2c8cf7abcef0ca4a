"""Learner of the gradient agents, policy gradients and value functions."""
