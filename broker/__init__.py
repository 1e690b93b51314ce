"""The broker: forward messages between aggregators, trainers and observers, by topic and by key."""
