"""Our work beside that of other libraries: the same work, by turns, as ratios."""
