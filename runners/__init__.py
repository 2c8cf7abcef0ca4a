"""Commands: `python -m runners.duel`, `runners.evaluate`, `runners.pretrain`, `runners.plot`."""
