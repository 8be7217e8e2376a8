"""Real data in the places where users keep theirs: a database, a folder of messy files, an API."""
