# Whether a native histogram makes sense, as far as that can be told at once: see histogram.py.

cdef enum:
    MAX_BUCKETS = 1 << 20

#: So many numbers up to this can be added up without overflowing.
cdef int64_t MAX_COUNT = <int64_t>1 << 40

cdef struct Side:
    uint64_t needed  # how many buckets its spans need
    int ranges
    Span deltas
    Span counts


cdef inline int64_t unzigzag(uint64_t number) noexcept:
    return <int64_t>(number >> 1) ^ -<int64_t>(number & 1)


cdef inline double double_of(uint64_t bits) noexcept:
    cdef double number
    memcpy(&number, &bits, 8)
    return number


cdef int check_histogram(Span message, Shape* shape) except -1:
    """Give up on a histogram that makes no sense, or that 1.0 cannot hold as it is.

    Args:
        message: the histogram.
        shape: that of its version.
    """
    cdef const uint8_t* p = message.start
    cdef const uint8_t* end = p + message.size
    cdef uint64_t[LAST_FIELD] values
    cdef bint[LAST_FIELD] there
    cdef Side[2] sides
    cdef Side* side
    cdef Field field
    cdef int previous = 0
    memset(values, 0, sizeof(values))
    memset(there, 0, sizeof(there))
    memset(sides, 0, sizeof(sides))
    while p < end:
        read_field(&p, end, shape, previous, &field)
        previous = field.number or -1
        if field.number == 0:
            continue
        there[field.number] = True
        side = &sides[field.number > 10]
        if field.number == 8 or field.number == 11:
            add_range(side, field.data)
        elif field.number == 9 or field.number == 12:
            side.deltas = field.data
        elif field.number == 10 or field.number == 13:
            side.counts = field.data
        elif field.number < 16:
            values[field.number] = field.value
    if (there[1] and there[2]) or (there[6] and there[7]):
        raise GIVE_UP
    check_sense(values, there, sides)
    return 0


cdef int add_range(Side* side, Span message) except -1:
    cdef const uint8_t* p = message.start
    cdef const uint8_t* end = p + message.size
    cdef Field field
    cdef int previous = 0
    side.ranges += 1
    while p < end:
        read_field(&p, end, &RANGE_SHAPE, previous, &field)
        previous = field.number
        if field.number == 2:
            side.needed += field.value
        elif field.number == 0 or (side.ranges > 1 and unzigzag(field.value) < 0):
            raise GIVE_UP
    return 0


cdef int check_sense(uint64_t* values, bint* there, Side* sides) except -1:
    cdef int64_t schema = unzigzag(values[4])
    cdef uint64_t observations = values[6] if there[6] else 0
    cdef int i
    if there[16] or not COARSEST_SCHEMA <= schema <= FINEST_SCHEMA or observations > <uint64_t>MAX_COUNT:
        raise GIVE_UP
    if there[2]:
        for i in range(2):
            check_counts(&sides[i])
        if double_of(values[2]) < 0 or (there[7] and double_of(values[7]) < 0):
            raise GIVE_UP
        return 0
    for i in range(2):
        observations += observations_of(&sides[i])
    if observations > values[1]:
        raise GIVE_UP
    # Observations of NaN are in no bucket.
    if observations < values[1] and double_of(values[3]) == double_of(values[3]):
        raise GIVE_UP
    return 0


cdef int check_counts(Side* side) except -1:
    cdef Py_ssize_t i
    cdef uint64_t bits
    if side.needed != <uint64_t>(side.counts.size // 8):
        raise GIVE_UP
    for i in range(side.counts.size // 8):
        memcpy(&bits, side.counts.start + 8 * i, 8)
        if double_of(bits) < 0:
            raise GIVE_UP
    return 0


cdef int64_t observations_of(Side* side) except -1:
    cdef const uint8_t* p = side.deltas.start
    cdef const uint8_t* end = p + side.deltas.size
    cdef uint64_t delta
    cdef uint64_t buckets = 0
    cdef int64_t count = 0
    cdef int64_t observations = 0
    if side.deltas.size > MAX_BUCKETS:
        raise GIVE_UP
    while p < end:
        read_number(&p, end, &delta)
        if delta > <uint64_t>MAX_COUNT:
            raise GIVE_UP
        count += unzigzag(delta)
        if not 0 <= count <= MAX_COUNT:
            raise GIVE_UP
        observations += count
        buckets += 1
    if buckets != side.needed:
        raise GIVE_UP
    return observations
