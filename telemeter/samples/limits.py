"""The limits that the reference and the compiled code of a conversion both know.

`setup.py` makes `telemeter/convert/_limits.pxi` of this module, which the compiled code includes: a
limit is changed here, and then the package is built anew (`pip install --editable .`). All are
whole numbers. This module imports nothing but `typing`, because it is run while the package is
built.
"""

from __future__ import annotations

from typing import Final

#: The longest metric name, label name or label value of an upload, in bytes of UTF-8.
MAX_NAME_LENGTH: Final = 255
#: The longest name and value of a label of a remote write, in bytes of UTF-8, unless configured.
MAX_LABEL_NAME: Final = 1024
MAX_LABEL_VALUE: Final = 16384
#: How many series of a remote write the reference looks at where the compiled code does not know
#: one of them; a Prometheus sends some thousands. The reference takes some 20 us for each.
MAX_UNUSUAL_SERIES: Final = 20_000
#: How many histograms with custom buckets one remote write may have. Each takes some 300 us.
MAX_CUSTOM_HISTOGRAMS: Final = 5_000
#: The most bytes that one upload or remote write may become, unless it is large itself. A histogram
#: becomes one series for each bucket, and each carries all the labels, so that a small hostile
#: request could otherwise become gigabytes.
MAX_OUTPUT: Final = 16 << 20
#: What a series takes of that besides its labels, in bytes.
SERIES_BYTES: Final = 32
#: How many examples of what was dropped are kept, each of another metric name.
MAX_EXAMPLES: Final = 3
#: How many bytes an example may have.
MAX_EXAMPLE: Final = 1024
#: How many values a regex is remembered for, and how long ones, in bytes.
MAX_REMEMBERED: Final = 4096
MAX_REMEMBERED_LENGTH: Final = 255
#: The schemas of native histograms with exponential buckets that every receiver knows.
COARSEST_SCHEMA: Final = -4
FINEST_SCHEMA: Final = 8
#: How many labels of ours the compiled code has room for in every series: those that are added to
#: uploads, added to collections, and anonymized there, each. The reference takes more.
MAX_COMPILED_LABELS: Final = 32
