"""From a configuration to layers to an `nn.Module`; tasks; weights on disk."""
