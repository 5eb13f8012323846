"""What came out: runs, figures, attention maps, live curves."""
