"""Distributions and resampling that the tests need and scipy does not have."""
