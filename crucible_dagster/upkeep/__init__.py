"""What an operator needs: finding problems, backup and restore, figures for monitoring."""
