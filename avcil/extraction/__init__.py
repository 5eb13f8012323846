"""From clips to feature stores, on one machine or on Ray."""
