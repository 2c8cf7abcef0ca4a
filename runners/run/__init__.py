"""One training run: settings, building, the loop, its record and its evaluation."""
