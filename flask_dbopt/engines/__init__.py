"""What the rooms need of a database, and one folder for each database that gives it."""
