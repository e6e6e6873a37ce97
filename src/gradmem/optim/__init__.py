"""The class shell: the only subclasses of torch.optim.Optimizer."""
