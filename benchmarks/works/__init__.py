"""One file a kind of work. Its `WORKS` say what is timed; what a side needs is imported when that side is built."""

WITHOUT = {  # methods that are beside nothing, and why
    "style_transfer": "no library has it, and a plain script would call the same: torch's convolutions and its L-BFGS",
    "kernels": "not timed beside another yet: its peer is LIBSVM, inside scikit-learn",
    "reinforcement": "a table of eleven states, and a world of its own: no library has both",
    "variational_inference": "nine numbers, whose steps are L-BFGS's own: a peer would call the same",
    **dict.fromkeys(
        ["adversarial", "gradient_descent", "hello_rnn", "linear_regression", "rules_against_learning", "small_cnn",
         "softmax_regression"],
        "not timed beside another yet",
    ),
}  # fmt: skip
