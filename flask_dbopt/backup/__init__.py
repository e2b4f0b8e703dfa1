"""Backups that were restored and checked before they count."""
