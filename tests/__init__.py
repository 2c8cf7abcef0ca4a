"""Tests; a package, so that they can share `matrix_games`."""
