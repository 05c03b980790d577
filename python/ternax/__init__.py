"""ternax."""
