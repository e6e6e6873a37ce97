"""What many comparisons say together: `gradmem summary`."""
