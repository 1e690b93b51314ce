"""What is sent: messages, topics, the codec and fixed-point numbers."""
