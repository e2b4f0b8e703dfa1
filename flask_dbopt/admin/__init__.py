"""The admin page under /_dbopt, one file a tab."""

from flask_dbopt.admin.mount import register

__all__ = ["register"]
