"""The admin page under /_dbopt, one file a tab."""
