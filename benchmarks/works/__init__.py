"""One file a kind of work. Its `WORKS` say what is timed; what a side needs is imported when that side is built."""
