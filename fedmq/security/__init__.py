"""Keys, tokens, enrollment and signing, with the commands `fedmq keys` and `fedmq trainer join`."""
