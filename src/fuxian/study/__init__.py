"""Studies: several methods, or several settings of one, over the same seeds; made of runs."""
