from __future__ import annotations

import hashlib
import hmac
import itertools
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmq.secure_sums import masks, shamir
from fedmq.security import ciphers
from fedmq.security.keys import transport_public


def passes_miller_rabin(number: int, base: int) -> bool:
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    power = pow(base, odd, number)
    return power in (1, number - 1) or any(pow(power, 2**k, number) == number - 1 for k in range(1, twos))


def test_field_is_a_prime_above_every_secret() -> None:
    assert shamir.P > 2**256
    assert all(passes_miller_rabin(shamir.P, base) for base in range(2, 60))


def test_shares_are_those_of_the_published_example() -> None:
    """https://en.wikipedia.org/wiki/Shamir%27s_secret_sharing: f(x) = 1234 + 166 x + 94 x^2."""
    coefficients = iter([166, 94])
    dealt = shamir.deal((1234).to_bytes(32, "little"), 3, 6, lambda size: next(coefficients).to_bytes(size, "little"))
    assert [int.from_bytes(one, "little") for one in dealt] == [1494, 1942, 2578, 3402, 4414, 5614]
    assert shamir.open_secret({1: dealt[1], 3: dealt[3], 4: dealt[4]}, 3) == (1234).to_bytes(32, "little")


@settings(max_examples=40, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.integers(1, 12), st.integers(0, 6), st.randoms(use_true_random=False))
def test_any_threshold_of_shares_gives_the_secret(secret: bytes, threshold: int, more: int, random: Random) -> None:
    members = threshold + more
    dealt = shamir.deal(secret, threshold, members, random.randbytes)
    holders = random.sample(range(members), random.randint(threshold, members))
    assert shamir.open_secret({holder: dealt[holder] for holder in holders}, threshold) == secret


def test_shares_below_the_threshold_fit_every_secret() -> None:
    dealt = shamir.deal(b"s" * 32, 3, 5, iter_bytes())
    for few in itertools.combinations(range(5), 2):
        for secret in (bytes(32), b"x" * 32):
            points = (0, *(one + 1 for one in few))
            values = [int.from_bytes(one, "little") for one in (secret, *(dealt[one] for one in few))]
            whole = {
                one: shamir._interpolate(points, values, one + 1).to_bytes(shamir.SHARE_BYTES, "little")
                for one in range(5)
            }
            assert all(whole[one] == dealt[one] for one in few)
            assert shamir.open_secret(whole, 3) == secret


def iter_bytes() -> shamir.Draw:
    count = itertools.count()
    return lambda size: hashlib.sha512(b"%d" % next(count)).digest()[:size]


def test_wrong_share_beyond_the_threshold_is_noticed() -> None:
    dealt = dict(enumerate(shamir.deal(b"s" * 32, 3, 5, iter_bytes())))
    for wrong in range(5):
        changed = {**dealt, wrong: bytes([dealt[wrong][0] ^ 1]) + dealt[wrong][1:]}
        assert shamir.open_secret(changed, 3) is None


def test_key_agreement_is_that_of_rfc_7748() -> None:
    """Section 6.1."""
    alice = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    bob = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    common = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    assert transport_public(alice).hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    assert ciphers.agree(ciphers.secret_key(alice), transport_public(bob)).hex() == common
    assert ciphers.agree(ciphers.secret_key(bob), transport_public(alice)).hex() == common


def test_keys_of_low_order_are_those_that_no_secret_agrees_with() -> None:
    secret = ciphers.secret_key(b"s" * 32)
    low = sorted(ciphers._LOW_ORDER)
    for coordinate in (*low, *(one + ciphers._P for one in low if one + ciphers._P < 2**255)):
        for highest_bit in (0, 2**255):
            public = (coordinate + highest_bit).to_bytes(32, "little")
            assert not ciphers.is_sound(public)
            with pytest.raises(ValueError, match="shared key"):
                ciphers.agree(secret, public)
        for near in (coordinate - 1, coordinate + 1):
            if near % ciphers._P not in low:
                assert ciphers.is_sound((near % ciphers._P).to_bytes(32, "little"))
                assert len(ciphers.agree(secret, (near % ciphers._P).to_bytes(32, "little"))) == 32


def test_key_stream_is_that_of_rfc_8439() -> None:
    stream = ciphers.key_stream(bytes(32), 64)
    assert stream.hex() == (
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
    )
    assert masks.mask(bytes(32), 8).tolist() == [int.from_bytes(stream[i : i + 8], "little") for i in range(0, 64, 8)]


def test_derived_key_is_hkdf_sha256_of_rfc_5869() -> None:
    extracted = hmac.digest(bytes(32), b"agreed", "sha256")
    assert ciphers.derive(b"agreed", b"purpose") == hmac.digest(extracted, b"purpose\x01", "sha256")


def test_encrypted_shares_decrypt_with_their_key_and_cohort_only() -> None:
    encrypted = ciphers.encrypt(b"k" * 32, b"two shares", b"cohort")
    assert ciphers.decrypt(b"k" * 32, encrypted, b"cohort") == b"two shares"
    assert ciphers.decrypt(b"l" * 32, encrypted, b"cohort") is None
    assert ciphers.decrypt(b"k" * 32, encrypted, b"another") is None
    assert ciphers.decrypt(b"k" * 32, encrypted[:-1] + bytes([encrypted[-1] ^ 1]), b"cohort") is None


def test_pair_masks_cancel_and_keys_have_one_purpose() -> None:
    sum_id = masks.SumName(b"federation", "run", 1, 2).id
    seed = masks.pair_seed(b"agreed", sum_id, 3, 1)
    assert seed == masks.pair_seed(b"agreed", sum_id, 1, 3)
    one, other = np.zeros(7, np.uint64), np.zeros(7, np.uint64)
    masks.add_pair(one, seed, 1, 3)
    masks.add_pair(other, seed, 3, 1)
    assert one.any()
    assert not (one + other).any()
    masks.remove_pair(one, seed, 1, 3)
    assert not one.any()
    keys = {
        *(masks.share_key(b"agreed", sum_id, *pair) for pair in ((1, 3), (3, 1), (1, 13))),
        *(masks.pair_seed(b"agreed", one, 1, 3) for one in (sum_id, masks.SumName(b"federation", "run", 12, 2).id)),
        masks.pair_seed(b"agreed", sum_id, 1, 13),
    }
    assert len(keys) == 6


@given(st.integers(1, 40), st.data())
@settings(max_examples=30, deadline=None)
def test_bitmap_has_exactly_its_members(members: int, data: st.DataObject) -> None:
    chosen = data.draw(st.sets(st.integers(0, members - 1)))
    bitmap = masks.to_bitmap(chosen, members)
    assert masks.from_bitmap(bitmap, members) == tuple(sorted(chosen))
    assert masks.from_bitmap(bitmap + b"\0", members) is None
    if members % 8:
        assert masks.from_bitmap(bitmap[:-1] + bytes([bitmap[-1] | 0x80]), members) is None
