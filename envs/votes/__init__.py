"""Votes: rows of people's or judges' pairwise verdicts, and what they say."""
