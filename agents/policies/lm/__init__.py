"""Policies that are causal language models of transformers."""
