"""The page of a benchmark: tables, standings, findings and pictures."""
