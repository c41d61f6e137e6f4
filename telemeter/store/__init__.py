"""The embedded store of the latest samples, and the rendering of them for `/federate`."""
