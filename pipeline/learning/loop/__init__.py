"""The one loop of fine-tuning, and what lets it survive: states, signals, lack of memory, several devices."""
