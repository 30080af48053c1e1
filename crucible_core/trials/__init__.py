"""A sweep as a table: its arms and seeds, what is kept of each trial, and the processes that run them."""
