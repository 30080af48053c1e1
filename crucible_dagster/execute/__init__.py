"""What happens inside an op."""
