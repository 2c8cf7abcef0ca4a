"""Measures of sampled responses and of verdicts on them: pure functions of arrays and texts."""
