"""Query results that are kept only while they are true."""
