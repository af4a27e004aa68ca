"""One file per rule: read records, call libraries, write records."""
