# Messages that pass: which of their bytes protobuf itself would write.

cdef enum Kind:
    NO_FIELD
    DOUBLE  # left out when all its bits are 0
    ANY_DOUBLE  # one of a choice, so it is written whatever it is
    NUMBER  # left out when it is 0
    ANY_NUMBER
    NUMBER31  # one of so many bits at most
    NUMBER32
    NUMBERS
    DOUBLES
    TEXT
    LABEL
    RANGE

cdef enum:
    LAST_FIELD = 18

cdef struct Shape:
    int last  # the highest number of a field that is known
    int passing  # the highest number of one that passes
    bint passes_unknown
    uint8_t[LAST_FIELD] kinds


cdef Shape shape_of(list kinds, int passing=0):
    """Describe a message by the kinds of its fields.

    If only some of them pass, then unknown ones do not.
    """
    cdef Shape shape
    cdef int i
    shape.last = len(kinds)
    shape.passing = passing or shape.last
    shape.passes_unknown = passing == 0
    memset(shape.kinds, NO_FIELD, LAST_FIELD)
    for i in range(shape.last):
        shape.kinds[i + 1] = kinds[i]
    return shape


cdef list HISTOGRAM_KINDS = [
    *(ANY_NUMBER, ANY_DOUBLE, DOUBLE, NUMBER32, DOUBLE, ANY_NUMBER, ANY_DOUBLE),
    *(RANGE, NUMBERS, DOUBLES, RANGE, NUMBERS, DOUBLES, NUMBER31, NUMBER, DOUBLES),
]
cdef Shape LABEL_SHAPE = shape_of([TEXT, TEXT])
cdef Shape RANGE_SHAPE = shape_of([NUMBER32, NUMBER32])
cdef Shape METADATA_1 = shape_of([NUMBER31, TEXT, NO_FIELD, TEXT, TEXT])
cdef Shape METADATA_2 = shape_of([NUMBER31, NO_FIELD, NUMBER32, NUMBER32])
cdef Shape SAMPLE_1 = shape_of([DOUBLE, NUMBER])
cdef Shape SAMPLE_2 = shape_of([DOUBLE, NUMBER, NUMBER], 2)
cdef Shape EXEMPLAR_1 = shape_of([LABEL, DOUBLE, NUMBER])
cdef Shape EXEMPLAR_2 = shape_of([NUMBERS, DOUBLE, NUMBER], 3)
cdef Shape HISTOGRAM_1 = shape_of(HISTOGRAM_KINDS)
cdef Shape HISTOGRAM_2 = shape_of([*HISTOGRAM_KINDS, NUMBER], 16)


cdef struct Field:
    int number  # 0: a field that is not known
    Span whole
    Span data  # of a field with bytes
    uint64_t value  # of the others
    bint passes


cdef int skip_unknown(const uint8_t** at, const uint8_t* end, int last) except -1:
    """Skip a field that has a higher number than the last that is known."""
    cdef uint64_t tag, ignored
    cdef Span data
    read_number(at, end, &tag)
    if tag > 0xFFFFFFFF or (tag >> 3) <= <uint64_t>last:
        raise GIVE_UP
    if tag & 7 == 0:
        read_number(at, end, &ignored)
    elif tag & 7 == 2:
        read_span(at, end, &data)
    elif tag & 7 == 1 or tag & 7 == 5:
        data.size = 8 if tag & 7 == 1 else 4
        if end - at[0] < data.size:
            raise GIVE_UP
        at[0] += data.size
    else:
        raise GIVE_UP
    return 0


cdef int read_field(
    const uint8_t** at, const uint8_t* end, Shape* shape, int previous, Field* field
) except -1:
    """Read the next field of a message.

    Args:
        at: where it starts.
        end: where the message ends.
        shape: what the message may hold.
        previous: the number of the field before it, 0 at the start.
        field: takes what was read.

    Fields must come in the order of their numbers, unknown ones last.
    """
    cdef const uint8_t* start = at[0]
    cdef uint64_t tag
    cdef int kind, wire
    cdef bint is_default  # whether protobuf would leave it out
    read_number(at, end, &tag)
    if (tag >> 3) > <uint64_t>shape.last:
        at[0] = start
        skip_unknown(at, end, shape.last)
        field.number = 0
        field.passes = shape.passes_unknown
        field.whole.start = start
        field.whole.size = at[0] - start
        return 0
    field.number = <int>(tag >> 3)
    kind = shape.kinds[field.number]
    wire = tag & 7
    if previous < 0 or field.number < previous or kind == NO_FIELD:
        raise GIVE_UP
    if field.number == previous and kind != LABEL and kind != RANGE:
        raise GIVE_UP
    if kind == DOUBLE or kind == ANY_DOUBLE:
        if wire != 1 or end - at[0] < 8:
            raise GIVE_UP
        memcpy(&field.value, at[0], 8)
        at[0] += 8
        is_default = kind == DOUBLE and field.value == 0
    elif kind == NUMBER or kind == ANY_NUMBER or kind == NUMBER31 or kind == NUMBER32:
        if wire != 0:
            raise GIVE_UP
        read_number(at, end, &field.value)
        if field.value > 0x7FFFFFFF and (
            kind == NUMBER31 or (kind == NUMBER32 and field.value > 0xFFFFFFFF)
        ):
            raise GIVE_UP
        is_default = kind != ANY_NUMBER and field.value == 0
    else:
        if wire != 2:
            raise GIVE_UP
        read_span(at, end, &field.data)
        check_data(field.data, kind)
        is_default = field.data.size == 0 and kind != LABEL and kind != RANGE
    field.passes = not is_default and field.number <= shape.passing
    field.whole.start = start
    field.whole.size = at[0] - start
    return 0


cdef int check_data(Span data, int kind) except -1:
    cdef const uint8_t* p = data.start
    cdef const uint8_t* end = p + data.size
    cdef uint64_t ignored
    if kind == TEXT:
        check_text(data)
    elif kind == LABEL:
        check_message(data, &LABEL_SHAPE)
    elif kind == RANGE:
        check_message(data, &RANGE_SHAPE)
    elif kind == DOUBLES:
        if data.size % 8:
            raise GIVE_UP
    else:
        while p < end:
            read_number(&p, end, &ignored)
    return 0


cdef int check_message(Span message, Shape* shape) except -1:
    """Give up on a message that does not pass as it is."""
    if size_of(message, shape) != message.size:
        raise GIVE_UP
    return 0


cdef Py_ssize_t size_of(Span message, Shape* shape) except -1:
    """The size of the message that passes."""
    cdef const uint8_t* p = message.start
    cdef const uint8_t* end = p + message.size
    cdef Py_ssize_t size = 0
    cdef int previous = 0
    cdef Field field
    while p < end:
        read_field(&p, end, shape, previous, &field)
        previous = field.number or -1
        if field.passes:
            size += field.whole.size
    return size


cdef int put_message(
    Output output, uint8_t tag, Span message, Shape* shape, Py_ssize_t size
) except -1:
    """Put what passes of a message, which has that size; there must be room for it."""
    output.put_byte(tag)
    output.put_number(<uint64_t>size)
    if size == message.size:
        output.put(message.start, size)
        return 0
    return put_fields(output, message, shape, 1)


cdef int put_fields(Output output, Span message, Shape* shape, int first) except -1:
    """Put the fields that pass from some number on, and unknown ones."""
    cdef const uint8_t* p = message.start
    cdef const uint8_t* end = p + message.size
    cdef int previous = 0
    cdef Field field
    while p < end:
        read_field(&p, end, shape, previous, &field)
        previous = field.number or -1
        if field.passes and (field.number == 0 or field.number >= first):
            output.put(field.whole.start, field.whole.size)
    return 0


cdef int64_t number_in(Span message, Shape* shape, int number) except? -1:
    """The whole number in a field, 0 if it is not there."""
    cdef const uint8_t* p = message.start
    cdef const uint8_t* end = p + message.size
    cdef int previous = 0
    cdef Field field
    while p < end:
        read_field(&p, end, shape, previous, &field)
        previous = field.number or -1
        if field.number == number:
            return <int64_t>field.value
    return 0
