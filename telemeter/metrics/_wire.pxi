# Protobuf in C: reading spans of a message without copying them, and writing to a buffer that grows.
#
# Included into every compiled module, so that the compiler can inline it. Each read is checked
# against the end of the message it is in; what is not encoded as every library encodes it raises
# GIVE_UP, and then the straightforward code has to look at the message.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcmp, memcpy

cdef struct Span:
    const uint8_t* start
    Py_ssize_t size

cdef struct Label:
    Span whole  # the field as it is encoded: tag, length, name and value
    Span name
    Span value


cdef class GiveUp(Exception):
    """The input is not the usual case."""


cdef GiveUp GIVE_UP = GiveUp()


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


cdef inline int read_length(const uint8_t** at, const uint8_t* end, Py_ssize_t* out) except -1:
    """Read a length of one or two or three bytes, minimal, that fits before the end."""
    cdef const uint8_t* p = at[0]
    cdef Py_ssize_t number
    if p >= end:
        raise GIVE_UP
    number = p[0]
    p += 1
    if number >= 0x80:
        if p >= end or p[0] == 0:
            raise GIVE_UP
        number = (number & 0x7F) | (<Py_ssize_t>(p[0] & 0x7F) << 7)
        p += 1
        if (p - 1)[0] >= 0x80:
            if p >= end or p[0] >= 0x80 or p[0] == 0:
                raise GIVE_UP
            number |= <Py_ssize_t>p[0] << 14
            p += 1
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
    """Read a varint of up to ten bytes."""
    cdef const uint8_t* p = at[0]
    cdef uint64_t number = 0
    cdef int shift = 0
    while True:
        if p >= end or shift > 63 or (shift == 63 and p[0] > 1):
            raise GIVE_UP
        number |= <uint64_t>(p[0] & 0x7F) << shift
        p += 1
        if (p - 1)[0] < 0x80:
            break
        shift += 7
    out[0] = number
    at[0] = p
    return 0


cdef inline int check_text(Span text) except -1:
    """Give up on what is not UTF-8."""
    cdef Py_ssize_t i
    cdef uint8_t seen = 0
    for i in range(text.size):
        seen |= text.start[i]
    if seen >= 0x80:
        try:
            PyUnicode_DecodeUTF8(<const char*>text.start, text.size, NULL)
        except UnicodeDecodeError:
            raise GIVE_UP
    return 0


cdef inline bint is_equal(Span one, const char* other, Py_ssize_t size) noexcept:
    return one.size == size and memcmp(one.start, other, size) == 0


cdef inline int compare(Span* one, Span* other) noexcept:
    """The order of two names by bytes."""
    cdef Py_ssize_t shorter = one.size if one.size < other.size else other.size
    cdef int order = memcmp(one.start, other.start, shorter)
    if order == 0 and one.size != other.size:
        return -1 if one.size < other.size else 1
    return order


cdef class Output:
    """A buffer that grows."""

    cdef uint8_t* data
    cdef Py_ssize_t size
    cdef Py_ssize_t room

    def __cinit__(self, Py_ssize_t room):
        self.size = 0
        self.room = room
        self.data = <uint8_t*>PyMem_Malloc(room)
        if self.data == NULL:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self.data)

    cdef int reserve(self, Py_ssize_t more) except -1:
        """Make room for `more` bytes."""
        cdef uint8_t* grown
        cdef Py_ssize_t room
        if self.size + more <= self.room:
            return 0
        room = (self.size + more) * 2
        grown = <uint8_t*>PyMem_Realloc(self.data, room)
        if grown == NULL:
            raise MemoryError
        self.data = grown
        self.room = room
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


cdef inline Py_ssize_t number_size(uint64_t number) noexcept:
    cdef Py_ssize_t size = 1
    while number > 0x7F:
        size += 1
        number >>= 7
    return size


cdef int parse_label(Span field, Label* label) except -1:
    """Name and value of an encoded label, in that order and nothing else."""
    cdef const uint8_t* p = field.start
    cdef const uint8_t* end = p + field.size
    if p >= end or p[0] != 0x0A:
        raise GIVE_UP
    p += 1
    read_span(&p, end, &label.name)
    if p >= end or p[0] != 0x12:
        raise GIVE_UP
    p += 1
    read_span(&p, end, &label.value)
    if p != end:
        raise GIVE_UP
    return 0


