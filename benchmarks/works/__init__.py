"""One file a kind of work. Its `WORKS` say what is timed; what a side needs is imported when that side is built."""

WITHOUT = {  # methods that are beside nothing, and why
    "style_transfer": "no library has it, and a plain script would call the same: torch's convolutions and its L-BFGS",
        ["adversarial", "convolution", "gaussian_mixture", "gradient_descent", "hello_rnn", "information", "linear",
         "linear_regression", "mlp", "naive", "naive_bayes", "optimizers", "parameter_count", "pca", "reinforcement",
         "rules_against_learning", "small_cnn", "softmax_regression", "variational_inference"],
        "not timed beside another yet",
    ),
}
