"""What a table of votes says: the test of one score per item, the intransitive share, rankings and their intervals."""
