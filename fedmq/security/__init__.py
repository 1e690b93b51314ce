"""Keys, tokens, enrollment and signatures, with the commands `fedmq keys` and `fedmq trainer join`."""
