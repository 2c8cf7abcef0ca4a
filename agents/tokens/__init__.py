"""Losses that look at a response token by token, one file each: TDPO and CRINGE."""
