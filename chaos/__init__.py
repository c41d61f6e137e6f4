"""The bad day, with real programs: faults, kills and floods, and nothing acknowledged is lost."""
