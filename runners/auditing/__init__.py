"""The report of an audit of votes: words, tables, a page."""
