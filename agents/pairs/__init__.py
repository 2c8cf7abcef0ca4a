"""Losses of pairs of responses, one file each: DPO and its family."""
