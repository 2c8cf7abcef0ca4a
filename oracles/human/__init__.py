"""People as a judge: questions on a page in the browser, verdicts in an SQLite file."""
