"""Models of one's own, bounded and fitted with this package."""
