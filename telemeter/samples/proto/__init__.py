"""Messages of the two wire formats, generated from the `.proto` files here (`make proto`)."""
