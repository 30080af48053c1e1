"""How many values a comparison needs: power, sample size, smallest effect."""
