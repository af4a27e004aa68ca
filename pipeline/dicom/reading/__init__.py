"""Reading: the bytes of one hostile file become elements."""
