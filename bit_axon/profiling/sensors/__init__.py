"""Sources of temperature, one small class each."""
