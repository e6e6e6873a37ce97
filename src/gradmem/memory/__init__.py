"""The functional core: tensors in, tensors out. It knows no optimizer, no module, no file."""
