"""Arrays in, arrays out: scans with resets, discretisation, initial systems and returns."""
