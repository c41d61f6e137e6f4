"""The agent, which every interval collects, transforms, exchanges its token and uploads."""
