"""SQLite behind the engine protocol."""
