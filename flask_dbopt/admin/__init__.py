"""The admin page under /_dbopt, one file a tab."""

from flask_dbopt.admin.site import Site, register

__all__ = ["Site", "register"]
