"""flask db-opt, one file a verb."""
