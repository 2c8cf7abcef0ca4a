"""Measurements behind the documentation's figures; each module is a command."""
