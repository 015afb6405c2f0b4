"""The promise of exactly once, tried on a real broker: two runs over one log, one of them disturbed, compared."""
