"""Each daemon as twistd starts it: from its options to its services."""
