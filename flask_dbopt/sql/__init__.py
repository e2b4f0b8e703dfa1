"""Reading SQL text, without a database."""
