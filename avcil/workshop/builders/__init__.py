"""From a data set's official annotation files and a folder of its media to a benchmark: see `__main__` and `report`."""
