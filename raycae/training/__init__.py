"""Train one trial, or several fused, in plain PyTorch; metrics and baselines."""
