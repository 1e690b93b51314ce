"""Generalized linear models by Newton's method: linear, logistic, multinomial and Poisson regression, exact."""
