"""Index advice that was tried before it is offered."""
