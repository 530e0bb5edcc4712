"""One file a kind of work. Its `WORKS` say what is timed; what a side needs is imported when that side is built."""

WITHOUT = {  # methods that are beside nothing, and why
    "style_transfer": "no library has it, and a plain script would call the same: torch's convolutions and its L-BFGS",
    **dict.fromkeys(
        ["adversarial", "gradient_descent", "gradient_flow", "hello_rnn", "linear_regression", "mlp",
         "pseudo_label", "regularization", "rules_against_learning", "small_cnn", "softmax_regression"],
        "not timed beside another yet",
    ),
}  # fmt: skip
