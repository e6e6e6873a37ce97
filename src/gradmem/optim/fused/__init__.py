"""One pass over the data for a whole step: `native` on the CPU, `on_triton` on accelerators."""
