"""Examples of user-defined models, bounded and fitted with this package."""
