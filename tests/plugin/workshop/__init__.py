"""A package of somebody else that adds parts to contrec."""
