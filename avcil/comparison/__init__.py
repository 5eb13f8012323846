"""Many runs beside one another: protocols, sweeps, search, tables."""
