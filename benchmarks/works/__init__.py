"""One file a kind of work. Its `WORKS` say what is timed; what a side needs is imported when that side is built."""

WITHOUT = {  # methods that are beside nothing, and why
    "computation_graph": "it trains nothing: what it compares is memory, with torch's own",
    "convolution": "written out to be read; torch's own, which it equals, is the fast one",
    "deepar": "three quarters of a step are torch's own LSTM, which GluonTS's has too: a peer would call the same",
    "function_approximation": "a plain script would call the same linear layers; what the loop adds has rows of its own",
    "gradient_descent": "two weights: what takes time is the loop, which has rows of its own",
    "gradient_flow": "a plain script would call the same linear layers; what the loop adds has rows of its own",
    "graph_lstm": "no library has it",
    "information": "a bell's mean and width: what takes time is the loop, which has rows of its own",
    "linear_regression": "two weights: what takes time is the loop, which has rows of its own",
    "naive": "it copies rows: there is nothing to be faster at",
    "parameter_count": "it trains nothing: it counts",
    "reinforcement": "a table of eleven states, and a world of its own: no library has both",
    "rules_against_learning": "six weights: what takes time is the loop, which has rows of its own",
    "style_transfer": "no library has it, and a plain script would call the same: torch's convolutions and its L-BFGS",
    "variational_inference": "nine numbers, whose steps are L-BFGS's own: a peer would call the same",
}
