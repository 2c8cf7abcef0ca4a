"""Sampling by vLLM, in the process or behind a server."""
