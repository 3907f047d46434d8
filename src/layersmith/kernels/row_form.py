"""The forms in which the compiled kernels read a linear map row by row, so that one token can go through several maps
in one call (`kernels/step`).

    form         stored                                                   the product alone
    FLOATS       weight float32 (d_out, d_in)                             `one_row`
    BYTES        packed, scale, zero: codes of 8 bits                     `packed_row`
    HALVES       packed, scale, zero: codes of 4 bits                     `packed_row`
    HALVES_INT8  the same, x rounded to int8 group by group               `packed_row_int8`
    INT8         codes int8 (d_out, d_in), scale float32 (d_out,)         `int8_linear`

A linear map that has such a form says so in a method `row_form()`; it is None where its settings leave it none. Whether
the tensors are ones that the kernels take is asked of all of a call's together (`kernels.step.serves`).
"""

from __future__ import annotations

from torch import Tensor

#: The form, what is stored and, last, the bias or None.
RowForm = tuple[int, tuple[Tensor | None, ...]]

FLOATS, BYTES, HALVES, HALVES_INT8, INT8 = range(5)
