"""What questions with discrete Gaussian noise reveal: concentrated differential privacy, and epsilon for a delta.

An answer whose rows add at most D to a vector, in the L2 norm, with noise of variance s**2, is rho-zCDP for
rho = D**2 / (2 s**2) (Bun and Steinke 2016; for discrete noise Canonne, Kamath and Steinke 2020, theorem 4). The rho of
several answers add up, however they are chosen.
"""

from __future__ import annotations

import math

ORDERS = 400  # of Renyi divergences that are tried; each gives a valid epsilon
RHO_MIN, RHO_MAX = 1e-12, 1e6
BISECTIONS = 200


def epsilon_of(rho: float, delta: float) -> float:
    """Return an epsilon such that rho-zCDP is (epsilon, delta)-differentially private; 0 for a rho of 0.

    The least over orders a of rho a + log(1 - 1/a) - (log delta + log a) / (a - 1): Canonne, Kamath and Steinke 2020,
    proposition 12 and corollary 13.
    """
    if rho <= 0.0:
        return 0.0
    best = 1.0 + math.sqrt(math.log(1.0 / delta) / rho)  # about the best order
    found = math.inf
    for place in range(ORDERS):
        order = 1.0 + (best - 1.0) * 2.0 ** ((place - ORDERS / 2) / (ORDERS / 8))
        loss = rho * order + math.log1p(-1.0 / order) - (math.log(delta) + math.log(order)) / (order - 1.0)
        found = min(found, loss)
    return max(0.0, found)


def rho_for(epsilon: float, delta: float) -> float:
    """Return the largest rho, to 12 digits, that is (epsilon, delta)-differentially private."""
    low, high = RHO_MIN, RHO_MAX
    for _ in range(BISECTIONS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if epsilon_of(middle, delta) <= epsilon else (low, middle)
    return low


def noise_multiplier(rho: float) -> float:
    """Return the standard deviation of the noise, in units of the sensitivity, of one answer that is rho-zCDP."""
    return math.sqrt(0.5 / rho)
