"""What the agent does every interval: collect, transform, exchange the token, upload."""
