"""The event store: events of all days, laid out by user, one Delta table per source table."""
