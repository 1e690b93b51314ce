"""The broker: forwards between aggregators and trainers; knows connections and topics, nothing of rounds or models."""
