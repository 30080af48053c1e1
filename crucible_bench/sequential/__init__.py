"""Looking at the data more than once without fooling oneself."""
