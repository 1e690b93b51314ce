"""Keys, tokens, enrollment and signatures, with the commands `fedmq keys` and `fedmq trainer join`.

keys               identities: key pairs, fingerprints, signatures
keyring            the folder of keys, and the members that a broker admits
tokens             the line that invites one machine, and its record in the folder
membership         changes to the folder of keys: create, invite, accept, revoke
signing            signatures of messages
enrollment         the request for membership and its answer
admission          the broker's side of enrollment
enrollment_client  the trainer's side of enrollment
trainer_keys       joining a federation, and replacing a trainer's keys
commands           `fedmq keys ...` and `fedmq trainer join`
"""
