"""Somebody's own clips: from a list of labels to the table."""
