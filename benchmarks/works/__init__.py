"""One file a kind of work. Its `WORKS` say what is timed; what a side needs is imported when that side is built."""

WITHOUT = {  # methods that are beside nothing, and why
    "style_transfer": "no library has it, and a plain script would call the same: torch's convolutions and its L-BFGS",
    "computation_graph": "it trains nothing: what it compares is memory, with torch's own",
    "convolution": "written out to be read; torch's own, which it equals, is the fast one",
    "parameter_count": "it trains nothing: it counts",
    **dict.fromkeys(
        ["adversarial", "gradient_descent", "hello_rnn", "linear_regression", "rules_against_learning", "small_cnn",
         "softmax_regression"],
        "not timed beside another yet",
    ),
}  # fmt: skip
