"""Every query known: counted, timed and summed across workers."""
