"""Agents whose answer is a mixture of a population of policies."""
