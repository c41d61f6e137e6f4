"""What the daemons answer: one module per endpoint, and the site that guards them."""
