"""What becomes of samples: uploads, remote writes and what the agent collects; pure."""
