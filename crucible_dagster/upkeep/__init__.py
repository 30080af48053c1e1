"""What an operator asks for: what is wrong, a copy of everything, figures for monitoring."""
