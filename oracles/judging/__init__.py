"""Judges that answer in words: what is asked, how an answer is read, and what happens if it can't be."""
