"""Connections: lent fairly, taken back clean, replaced when they age."""
