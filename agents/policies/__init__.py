"""Policies: tables, mixtures, geometric mixtures, and language models."""
