"""A server of verdicts and group rewards for trainers in other processes (docs/serve.md)."""
