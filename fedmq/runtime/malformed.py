"""The exceptions of a decoder for bytes that this process did not write."""

import msgspec

# A few hundred bytes can nest deeper than the stack of this process.
MALFORMED = (msgspec.MsgspecError, UnicodeError, RecursionError)
