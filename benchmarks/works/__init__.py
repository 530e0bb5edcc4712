"""One file a kind of work. Its `WORKS` say what is timed; what a side needs is imported when that side is built."""

WITHOUT = {  # methods that are beside nothing, and why
    "computation_graph": "it trains nothing: what it compares is memory, with torch's own",
    "convolution": "written out to be read; torch's own, which it equals, is the fast one",
    "kernel_ridge": "not timed beside another yet: its peer would be scikit-learn's, of the same LAPACK",
    "kernels": "not timed beside another yet: its peer is LIBSVM, inside scikit-learn",
    "naive": "it copies rows: there is nothing to be faster at",
    "parameter_count": "it trains nothing: it counts",
    "reinforcement": "a table of eleven states, and a world of its own: no library has both",
    "style_transfer": "no library has it, and a plain script would call the same: torch's convolutions and its L-BFGS",
    "variational_inference": "nine numbers, whose steps are L-BFGS's own: a peer would call the same",
    **dict.fromkeys(
        ["adversarial", "csdi", "deep_gcn", "deepar", "function_approximation", "gaussian_mixture",
         "gradient_descent", "gradient_flow", "graph_lstm", "hello_rnn", "information",
         "linear_regression", "logistic_regression", "mlp", "naive_bayes", "nearest_neighbours",
         "nonstationary_transformer", "nsdiff", "optimizers", "patchtst", "pca", "pseudo_label", "regularization",
         "rules_against_learning", "small_cnn", "softmax_regression", "timegrad", "tmdm"],
        "not timed beside another yet",
    ),
}  # fmt: skip
