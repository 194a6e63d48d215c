"""A page about what the columns of files hold, from a part of their rows."""
