"""Losses of single responses, each liked or disliked by itself, one file each."""
