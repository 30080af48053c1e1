"""The numbers that are compared: read, checked, summarized."""
