"""Complete configurations, and the one table of names."""
