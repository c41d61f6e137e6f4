# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""One pass from what Prometheus federated to what the agent sends, for the usual case.

What is usual: families of counters, gauges and untyped metrics, encoded as every library encodes
them. There the encoded labels are copied as they are, or others are put in their place, and no
object is built per label. At anything else `transform` gives up and returns None: then the
straightforward code decides, and says what is wrong. So what this module makes must be right to the
byte, and what it does not know costs time only.

Every read is checked against the end of the message it is in.
"""

from telemeter.convert.results import Collected

include "_limits.pxi"
include "_wire.pxi"

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memcpy

cdef enum:
    # Labels that follow each other in the input are one piece.
    MAX_PIECES = 128
    # How many labels' hashes are remembered: a few MB at the most.
    MAX_HASHES = 8192
    VALUE_SIZE = 11  # of the field that holds a value: its tag, its length and 9 bytes

# The tags of the fields that hold the values of counters, gauges and untyped metrics, by the number
# of that type.
cdef uint8_t[4] VALUE_TAGS = [0x1A, 0x12, 0, 0x2A]


cdef struct Label:
    Span name
    Span value


cdef struct Record:
    int64_t stamp
    Py_ssize_t at
    Py_ssize_t size


cdef class Prepared:
    """The transforms of every collection, prepared.

    Args:
        added: names and values of the labels to add; no name empty or `__name__`, nothing too long.
        renames: new names of families by old ones.
        anonymized: names of the labels whose values are replaced by their hashes.
        anonymous: makes the hash of a value.
    """

    cdef dict renames
    cdef list added  # encoded labels
    cdef list names  # keeps the bytes that the spans are of
    cdef Span[MAX_COMPILED_LABELS] added_names
    cdef Span[MAX_COMPILED_LABELS] hashed_names
    cdef int added_count, hashed_count
    cdef object anonymous
    cdef dict hashes  # encoded labels by those that they take the place of

    def __init__(self, added, renames, anonymized, anonymous):
        if len(added) > MAX_COMPILED_LABELS or len(anonymized) > MAX_COMPILED_LABELS:
            raise ValueError(f"at most {MAX_COMPILED_LABELS} labels")
        self.renames = {old.encode(): new.encode() for old, new in renames.items()}
        self.anonymous = anonymous
        self.hashes = {}
        self.added = []
        self.names = []
        for name, value in added.items():
            if value and name in anonymized:
                value = anonymous(value)
            self.added.append(encode_label(name.encode(), value.encode()))
            self.added_names[self.added_count] = self.keep(name.encode())
            self.added_count += 1
        for name in anonymized:
            self.hashed_names[self.hashed_count] = self.keep(name.encode())
            self.hashed_count += 1

    cdef Span keep(self, bytes name):
        cdef Span span
        self.names.append(name)
        span.start = <const uint8_t*>PyBytes_AS_STRING(name)
        span.size = PyBytes_GET_SIZE(name)
        return span

    cdef bytes anonymize(self, Span whole, Label* label):
        """The label that takes the place of another."""
        cdef bytes key = PyBytes_FromStringAndSize(<const char*>whole.start, whole.size)
        cdef bytes found = self.hashes.get(key)
        if found is None:
            value = self.anonymous(
                PyUnicode_DecodeUTF8(<const char*>label.value.start, label.value.size, NULL)
            )
            found = encode_label(
                PyBytes_FromStringAndSize(<const char*>label.name.start, label.name.size),
                value.encode(),
            )
            self.hashes[key] = found
        return found


cdef class Transformation:
    """One run over a collection."""

    cdef Prepared prepared
    cdef int64_t oldest
    cdef Output output
    cdef Output metrics  # of the family that is being read
    cdef Output records  # where its metrics are
    cdef uint8_t value_tag
    cdef bint is_sorted
    cdef int64_t latest
    # Of the metric that is being read:
    cdef Span[MAX_PIECES] pieces
    cdef int count
    cdef Py_ssize_t size
    cdef uint32_t found  # which labels to add were there, as bits
    cdef bint is_valid
    cdef public Py_ssize_t families, kept, received

    def __init__(self, Prepared prepared, int64_t oldest, Py_ssize_t room):
        self.prepared = prepared
        self.oldest = oldest
        self.output = Output(room)
        self.metrics = Output(4096)
        self.records = Output(4096)

    cdef int run(self, bytes body) except -1:
        cdef const uint8_t* p = <const uint8_t*>PyBytes_AS_STRING(body)
        cdef const uint8_t* end = p + PyBytes_GET_SIZE(body)
        cdef Span family
        cdef uint64_t size
        while p < end:
            read_number(&p, end, &size)
            if size > <uint64_t>(end - p):
                raise GIVE_UP
            family.start = p
            family.size = size
            p += size
            self.take_family(family)
        return 0

    cdef int take_family(self, Span family) except -1:
        """Find what surrounds the metrics, and then take these."""
        cdef const uint8_t* end = family.start + family.size
        cdef const uint8_t* p = family.start
        cdef Span name = no_text()
        cdef Span help = no_text()
        cdef Span unit = no_text()
        cdef Span field
        cdef uint64_t kind = 0
        cdef bint has_type = False
        cdef uint8_t tag
        while p < end:
            tag = p[0]
            p += 1
            if tag == 0x18:
                if has_type:
                    raise GIVE_UP
                read_number(&p, end, &kind)
                has_type = True
                continue
            read_span(&p, end, &field)
            if tag == 0x22:
                self.received += 1
            elif tag == 0x0A:
                take_text(&name, field)
            elif tag == 0x12:
                take_text(&help, field)
            elif tag == 0x2A:
                take_text(&unit, field)
            else:
                raise GIVE_UP
        if name.size <= 0 or not has_type or kind > 3 or VALUE_TAGS[kind] == 0:
            raise GIVE_UP
        self.value_tag = VALUE_TAGS[kind]
        self.take_metrics(family)
        if self.records.size:
            self.put_family(name, help, unit, <uint8_t>kind)
        return 0

    cdef int take_metrics(self, Span family) except -1:
        cdef const uint8_t* end = family.start + family.size
        cdef const uint8_t* p = family.start
        cdef Span field
        cdef uint64_t ignored
        cdef uint8_t tag
        self.is_sorted = True
        self.metrics.size = 0
        self.records.size = 0
        while p < end:
            tag = p[0]
            p += 1
            if tag == 0x18:
                read_number(&p, end, &ignored)
                continue
            read_span(&p, end, &field)
            if tag == 0x22:
                self.take_metric(field)
        return 0

    cdef int take_metric(self, Span metric) except -1:
        """Read one metric, and write it if it is valid."""
        cdef const uint8_t* p = metric.start
        cdef const uint8_t* end = p + metric.size
        cdef const uint8_t* value = NULL
        cdef Span whole
        cdef Span field
        cdef uint64_t stamp = 0
        cdef bint has_stamp = False
        cdef uint8_t tag
        self.count = 0
        self.size = 0
        self.found = 0
        self.is_valid = True
        if len(self.prepared.hashes) >= MAX_HASHES:
            self.prepared.hashes.clear()
        while p < end:
            whole.start = p
            tag = p[0]
            p += 1
            if tag == 0x30:
                if has_stamp:
                    raise GIVE_UP
                read_number(&p, end, &stamp)
                has_stamp = True
                continue
            read_span(&p, end, &field)
            if tag == 0x0A:
                whole.size = p - whole.start
                self.take_label(whole, field)
            elif tag == self.value_tag and value == NULL:
                if field.size != 9 or field.start[0] != 0x09:
                    raise GIVE_UP
                value = whole.start
            else:
                raise GIVE_UP
        if self.is_valid and has_stamp and value != NULL and <int64_t>stamp >= self.oldest:
            self.add_missing()
            self.put_metric(value, stamp)
        return 0

    cdef int take_label(self, Span whole, Span field) except -1:
        """Note what is to be written for a label, if anything."""
        cdef Label label
        cdef Prepared prepared = self.prepared
        cdef int i
        parse_label(field, &label.name, &label.value)
        if label.name.start == NULL or label.value.start == NULL:
            raise GIVE_UP
        if not is_ascii(whole.start, whole.start + whole.size):
            check_text(label.name)
            check_text(label.value)
        if label.name.size == 0:
            return 0
        i = index_of(&label.name, prepared.added_names, prepared.added_count)
        if i >= 0:
            self.found |= <uint32_t>1 << i
            self.add_encoded(<bytes>prepared.added[i])
        elif (
            label.name.size > MAX_NAME_LENGTH
            or label.value.size > MAX_NAME_LENGTH
            or (label.name.size == 8 and memcmp(label.name.start, b"__name__", 8) == 0)
        ):
            self.is_valid = False
        elif label.value.size and (
            index_of(&label.name, prepared.hashed_names, prepared.hashed_count) >= 0
        ):
            self.add_encoded(prepared.anonymize(whole, &label))
        else:
            self.add_piece(whole)
        return 0

    cdef int add_missing(self) except -1:
        cdef int i
        for i in range(self.prepared.added_count):
            if not self.found >> i & 1:
                self.add_encoded(<bytes>self.prepared.added[i])
        return 0

    cdef int add_encoded(self, bytes label) except -1:
        """Add a label that the prepared holds at least until this metric is written."""
        cdef Span piece
        piece.start = <const uint8_t*>PyBytes_AS_STRING(label)
        piece.size = PyBytes_GET_SIZE(label)
        return self.add_piece(piece)

    cdef int add_piece(self, Span piece) except -1:
        cdef Span* last
        self.size += piece.size
        if self.count:
            last = &self.pieces[self.count - 1]
            if last.start + last.size == piece.start:
                last.size += piece.size
                return 0
        if self.count == MAX_PIECES:
            raise GIVE_UP
        self.pieces[self.count] = piece
        self.count += 1
        return 0

    cdef int put_metric(self, const uint8_t* value, uint64_t stamp) except -1:
        cdef Output out = self.metrics
        cdef Record record
        cdef int i
        record.stamp = <int64_t>stamp
        record.at = out.size
        self.size += VALUE_SIZE + 1 + number_size(stamp)
        out.reserve(self.size + 11)
        out.put_byte(0x22)
        out.put_number(self.size)
        for i in range(self.count):
            out.put(self.pieces[i].start, self.pieces[i].size)
        out.put(value, VALUE_SIZE)
        out.put_byte(0x30)
        out.put_number(stamp)
        record.size = out.size - record.at
        if record.at and record.stamp < self.latest:
            self.is_sorted = False
        self.latest = record.stamp
        self.records.reserve(sizeof(Record))
        self.records.put(<const uint8_t*>&record, sizeof(Record))
        return 0

    cdef int put_family(self, Span name, Span help, Span unit, uint8_t kind) except -1:
        cdef Output out = self.output
        cdef Py_ssize_t size, i
        cdef Py_ssize_t count = self.records.size // <Py_ssize_t>sizeof(Record)
        cdef Record* records = <Record*>self.records.data
        cdef bytes renamed = self.prepared.renames.get(
            PyBytes_FromStringAndSize(<const char*>name.start, name.size)
        )
        if renamed is not None:
            name.start = <const uint8_t*>PyBytes_AS_STRING(renamed)
            name.size = PyBytes_GET_SIZE(renamed)
        if name.size == 0 or name.size > MAX_NAME_LENGTH:
            raise GIVE_UP
        size = text_size(name) + text_size(help) + 2 + self.metrics.size + text_size(unit)
        out.reserve(size + 10)
        out.put_number(size)
        put_text(out, 0x0A, name)
        put_text(out, 0x12, help)
        out.put_byte(0x18)
        out.put_byte(kind)
        if self.is_sorted:
            out.put(self.metrics.data, self.metrics.size)
        else:
            qsort(records, count, sizeof(Record), compare_records)
            for i in range(count):
                out.put(self.metrics.data + records[i].at, records[i].size)
        put_text(out, 0x2A, unit)
        self.families += 1
        self.kept += count
        return 0


cdef int compare_records(const void* one, const void* other) noexcept nogil:
    """By time, and those of one time in the order they had."""
    cdef const Record* left = <const Record*>one
    cdef const Record* right = <const Record*>other
    if left.stamp != right.stamp:
        return -1 if left.stamp < right.stamp else 1
    return -1 if left.at < right.at else 1


cdef inline int index_of(Span* name, Span* names, int count) noexcept:
    """Return the index of a name among others, or -1."""
    cdef int i
    for i in range(count):
        if is_same(names[i], name[0]):
            return i
    return -1


cdef inline Span no_text() noexcept:
    cdef Span text
    text.start = NULL
    text.size = -1
    return text


cdef inline int take_text(Span* text, Span field) except -1:
    """Take a text that must be there once."""
    if text.size >= 0:
        raise GIVE_UP
    check_text(field)
    text[0] = field
    return 0


cdef inline Py_ssize_t text_size(Span text) noexcept:
    """Return how many bytes it takes as a field; none if it was not there."""
    return 0 if text.size < 0 else 1 + number_size(text.size) + text.size


cdef inline void put_text(Output out, uint8_t tag, Span text) noexcept:
    if text.size >= 0:
        out.put_byte(tag)
        out.put_number(text.size)
        out.put(text.start, text.size)


def transform(bytes body, Prepared prepared, int64_t oldest):
    """Transform delimited families.

    Args:
        body: what was collected.
        prepared: what is done with it.
        oldest: the oldest timestamp that is kept, in milliseconds since the epoch.

    Returns:
        A `Collected`; None: this is not the usual case.
    """
    cdef Transformation run = Transformation(prepared, oldest, len(body) + len(body) // 8 + 4096)
    try:
        run.run(body)
    except GiveUp:
        return None
    return Collected(
        payload=run.output.take(),
        families=run.families,
        samples=run.kept,
        received=run.received,
    )
