"""Arithmetic with one result on every machine: fixed point, integer products, elementary functions, algebra, draws.

Sums over rows are the same bits for any split of the rows, any order and any machine, if four rules hold:

1. A row's numbers come from elementwise IEEE 754 operations only: `+ - * / sqrt rint min max ldexp frexp`,
   comparisons and tables. `elementary` builds exp, log, sigmoid and softmax of these.
2. A matrix product is a product of integers below 2**53, which float64 holds exactly, so BLAS may add in any order.
   Round the factors of each row, never the product: `integers`.
3. Totals are int64 in published units; what needs more bits is two integers, combined at the end.
4. The algebra on totals is elementwise as well, and draws come from integers: `algebra`, `draws`, `fourier`.

numpy may use any SIMD width and any BLAS for it; `numpy.exp`, `@` on fractions and LAPACK have no place here.
"""
