"""One file for each Flask extension the app may already have."""
