"""One trial in plain PyTorch, or several trials fused; metrics and baselines."""
