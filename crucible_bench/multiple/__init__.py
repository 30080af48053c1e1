"""Several comparisons at once: families of pairs, and corrections of their p-values."""
