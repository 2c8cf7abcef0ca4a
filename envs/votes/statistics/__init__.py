"""Statistics of a table of votes: test of one score per item, intransitive share, rankings with intervals."""
