"""PostgreSQL behind the engine protocol; its windows open when an app outgrows one machine."""
