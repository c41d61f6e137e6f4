"""The view of an operator: log lines, metrics, profiles."""
