# Protobuf in C: reading spans of a message without copying them, and writing to a buffer that grows.
#
# Included into every compiled module, so that the compiler can inline it. Each read is checked
# against the end of the message it is in; what is not encoded as every library encodes it raises
# GIVE_UP, and then the straightforward code has to look at the message.

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE, _PyBytes_Resize
from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

cdef extern from "Python.h":
    PyObject* new_bytes "PyBytes_FromStringAndSize"(const char* v, Py_ssize_t size) except NULL

cdef struct Span:
    const uint8_t* start
    Py_ssize_t size


cdef class GiveUp(Exception):
    """The input is not the usual case."""


cdef GiveUp GIVE_UP = GiveUp()


cdef inline Span span_of(bytes data) noexcept:
    cdef Span span
    span.start = <const uint8_t*>PyBytes_AS_STRING(data)
    span.size = PyBytes_GET_SIZE(data)
    return span


cdef inline int read_length(const uint8_t** at, const uint8_t* end, Py_ssize_t* out) except -1:
    """Read a length of at most four bytes, minimal, that fits before the end."""
    cdef const uint8_t* p = at[0]
    cdef Py_ssize_t number
    cdef int shift = 7
    if p >= end:
        raise GIVE_UP
    number = p[0]
    p += 1
    if number >= 0x80:
        number &= 0x7F
        while True:
            if p >= end or p[0] == 0 or shift > 21:
                raise GIVE_UP
            number |= <Py_ssize_t>(p[0] & 0x7F) << shift
            shift += 7
            p += 1
            if (p - 1)[0] < 0x80:
                break
    if number > end - p:
        raise GIVE_UP
    out[0] = number
    at[0] = p
    return 0


cdef inline int read_span(const uint8_t** at, const uint8_t* end, Span* out) except -1:
    cdef Py_ssize_t size
    read_length(at, end, &size)
    out.start = at[0]
    out.size = size
    at[0] += size
    return 0


cdef inline int read_number(const uint8_t** at, const uint8_t* end, uint64_t* out) except -1:
    """Read a varint of up to ten bytes, minimal."""
    cdef const uint8_t* p = at[0]
    cdef uint64_t number = 0
    cdef int shift = 0
    while True:
        if p >= end or shift > 63 or (shift == 63 and p[0] > 1) or (shift and p[0] == 0):
            raise GIVE_UP
        number |= <uint64_t>(p[0] & 0x7F) << shift
        p += 1
        if (p - 1)[0] < 0x80:
            break
        shift += 7
    out[0] = number
    at[0] = p
    return 0


cdef inline uint64_t word_at(const uint8_t* p) noexcept:
    cdef uint64_t word
    memcpy(&word, p, 8)
    return word


# A literal of this size would be an object of Python.
cdef uint64_t HIGH_BITS = 0x8080808080808080


cdef inline bint is_ascii(const uint8_t* p, const uint8_t* end) noexcept:
    cdef uint64_t seen = 0
    cdef uint8_t last = 0
    if end - p < 8:
        while p < end:
            last |= p[0]
            p += 1
        return last < 0x80
    seen = word_at(end - 8)
    while end - p >= 32:
        seen |= word_at(p) | word_at(p + 8) | word_at(p + 16) | word_at(p + 24)
        p += 32
    while end - p >= 8:
        seen |= word_at(p)
        p += 8
    return (seen & HIGH_BITS) == 0


cdef bint is_utf8(const uint8_t* p, const uint8_t* end) noexcept:
    """Return whether this is UTF-8 in its shortest form, without surrogates."""
    cdef uint8_t lead, low, high
    cdef int more
    while p < end:
        lead = p[0]
        p += 1
        if lead < 0x80:
            continue
        low, high = 0x80, 0xBF
        if 0xC2 <= lead <= 0xDF:
            more = 1
        elif 0xE0 <= lead <= 0xEF:
            more = 2
            if lead == 0xE0:
                low = 0xA0
            elif lead == 0xED:
                high = 0x9F
        elif 0xF0 <= lead <= 0xF4:
            more = 3
            if lead == 0xF0:
                low = 0x90
            elif lead == 0xF4:
                high = 0x8F
        else:
            return False
        if end - p < more or not low <= p[0] <= high:
            return False
        p += 1
        for _ in range(more - 1):
            if not 0x80 <= p[0] <= 0xBF:
                return False
            p += 1
    return True


cdef inline int check_text(Span text) except -1:
    """Give up on what is not UTF-8."""
    cdef const uint8_t* end = text.start + text.size
    if not is_ascii(text.start, end) and not is_utf8(text.start, end):
        raise GIVE_UP
    return 0


def encode_label(bytes name, bytes value):
    """A label as field 1 of a metric or a series."""
    inner = b"\x0a" + _varint(len(name)) + name + b"\x12" + _varint(len(value)) + value
    return b"\x0a" + _varint(len(inner)) + inner


def _varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


cdef inline int parse_label(Span field, Span* name, Span* value) except -1:
    """Name and value of an encoded label, in that order and nothing else.

    What is absent has no start.
    """
    cdef const uint8_t* p = field.start
    cdef const uint8_t* end = p + field.size
    name.start = value.start = NULL
    name.size = value.size = 0
    if p < end and p[0] == 0x0A:
        p += 1
        read_span(&p, end, name)
    if p < end and p[0] == 0x12:
        p += 1
        read_span(&p, end, value)
    if p != end:
        raise GIVE_UP
    return 0


cdef inline bint is_same(Span one, Span other) noexcept:
    return one.size == other.size and memcmp(one.start, other.start, one.size) == 0


cdef inline bint has_same_bytes(const uint8_t* one, const uint8_t* other, Py_ssize_t size) noexcept:
    """Return whether so many bytes, four at least, are the same: for short ones quicker than a call."""
    cdef uint32_t one_half, other_half
    cdef Py_ssize_t at
    if size < 8:
        memcpy(&one_half, one, 4)
        memcpy(&other_half, other, 4)
        if one_half != other_half:
            return False
        memcpy(&one_half, one + size - 4, 4)
        memcpy(&other_half, other + size - 4, 4)
        return one_half == other_half
    for at in range(0, size - 8, 8):
        if word_at(one + at) != word_at(other + at):
            return False
    return word_at(one + size - 8) == word_at(other + size - 8)


cdef inline Py_ssize_t number_size(uint64_t number) noexcept:
    cdef Py_ssize_t size = 1
    while number > 0x7F:
        size += 1
        number >>= 7
    return size


cdef inline Py_ssize_t field_size(Py_ssize_t size) noexcept:
    """Return the size of a field with so many bytes, its number being under 16."""
    return 1 + number_size(<uint64_t>size) + size


@cython.final
cdef class Output:
    """A buffer that grows, and becomes a bytes object without being copied."""

    cdef PyObject* buffer
    cdef uint8_t* data
    cdef Py_ssize_t size
    cdef Py_ssize_t room

    def __cinit__(self, Py_ssize_t room):
        self.buffer = NULL
        self.size = 0
        self.resize(room)

    def __dealloc__(self):
        Py_XDECREF(self.buffer)

    cdef int resize(self, Py_ssize_t room) except -1:
        if self.buffer == NULL:
            self.buffer = new_bytes(NULL, room)
        else:
            _PyBytes_Resize(&self.buffer, room)  # sets it to NULL when it fails
        self.data = <uint8_t*>PyBytes_AS_STRING(<object>self.buffer)
        self.room = room
        return 0

    cdef bytes take(self):
        """Return what was written; afterwards the output is no longer of use."""
        cdef bytes written
        _PyBytes_Resize(&self.buffer, self.size)
        written = <bytes>self.buffer
        Py_XDECREF(self.buffer)
        self.buffer = NULL
        return written

    cdef inline int reserve(self, Py_ssize_t more) except -1:
        """Make room for `more` bytes."""
        if more > self.room - self.size:
            self.resize((self.size + more) + (self.size + more) // 2)
        return 0

    cdef inline void put(self, const uint8_t* source, Py_ssize_t size) noexcept:
        memcpy(self.data + self.size, source, size)
        self.size += size

    cdef inline void put_byte(self, uint8_t byte) noexcept:
        self.data[self.size] = byte
        self.size += 1

    cdef inline void put_number(self, uint64_t number) noexcept:
        while number > 0x7F:
            self.put_byte(<uint8_t>(number & 0x7F | 0x80))
            number >>= 7
        self.put_byte(<uint8_t>number)
