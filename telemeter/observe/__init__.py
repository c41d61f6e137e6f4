"""The view of an operator: log lines, metrics, profiles, and the outcome of each request."""
