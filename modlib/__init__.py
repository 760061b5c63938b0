"""modlib."""
