"""Losses of several responses to a prompt at once, one file each."""
