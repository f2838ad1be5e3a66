"""Parts that every data module shares: the contract, reading, splits, sampling."""
