"""The audit log: who did what, in a file of its own whose lines vouch for one another."""
