"""What every data module shares: reading, splits, sampling."""
