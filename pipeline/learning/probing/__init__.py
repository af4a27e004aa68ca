"""Linear heads on frozen features, and what they tell about blocks and sources."""
