# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""One pass from an upload's bytes to a remote-write request's, for the usual case.

What is usual: families of counters, gauges and untyped metrics, encoded as every library encodes
them, of which each sample obeys the rules. There the encoded labels are copied as they are (both
formats encode a label alike), and no object is built per label. At anything else `convert` gives up
and returns None: then the straightforward code decides, and says what is wrong. So what this module
accepts must be right, and what it does not know costs time only.

Every read is checked against the end of the message it is in.
"""

from telemeter.convert.results import Converted

include "_limits.pxi"
include "_wire.pxi"
include "_table.pxi"
include "_labels.pxi"

cdef enum:
    GAUGE_FIELD = 0x12
    COUNTER_FIELD = 0x1A
    UNTYPED_FIELD = 0x2A


@cython.final
cdef class Prepared:
    """The rules for every upload, prepared.

    Args:
        rules: what may pass, see `Rules`.
        added: names and values of the labels to add.
        elided: names of the labels to remove.
        keep_times: whether the samples keep their own timestamps.
    """

    cdef Rules rules
    cdef bint keep_times
    cdef list removed  # names of labels that do not go on as they came
    cdef list added  # encoded labels

    def __init__(self, rules, added, elided, bint keep_times=False):
        self.rules = Rules(rules)
        self.keep_times = keep_times
        self.removed = [Name(name.encode()) for name in {*elided, *(name for name, _ in added)}]
        self.added = [
            encode_label(name.encode(), value.encode())
            for name, value in added
            if name not in elided and value
        ]


@cython.final
cdef class Conversion:
    """One run over an upload."""

    cdef Prepared prepared
    cdef list required  # of names with the values they must have
    cdef int64_t now
    cdef int64_t oldest
    cdef int64_t drift
    cdef Py_ssize_t limit
    cdef Py_ssize_t spent
    cdef Output output
    cdef Table seen
    cdef Labels labels
    cdef Examples examples
    cdef int series, received, dropped, duplicates, past, present, future, after_now
    cdef int64_t newest

    def __init__(self, Prepared prepared, required, int64_t now, int64_t max_age, int64_t drift, limit, room):
        self.prepared = prepared
        self.required = [
            Name(name.encode(), value.encode("utf-8", "surrogatepass"))
            for name, value in required.items()
        ]
        self.now = now
        self.oldest = now - max_age
        self.drift = drift
        self.limit = limit
        self.output = Output(room)
        self.seen = Table()
        self.labels = Labels()
        self.examples = Examples()

    cdef int run(self, bytes body) except -1:
        cdef const uint8_t* p = <const uint8_t*>PyBytes_AS_STRING(body)
        cdef const uint8_t* end = p + PyBytes_GET_SIZE(body)
        cdef Span family
        while p < end:
            read_span(&p, end, &family)
            self.take_family(family)
        return 0

    cdef int take_family(self, Span family) except -1:
        """Find the name and the type, which the metrics need, and then take the metrics."""
        cdef const uint8_t* end = family.start + family.size
        cdef const uint8_t* p = family.start
        cdef Span name = NOTHING
        cdef Span field
        cdef uint64_t kind = 0
        cdef bint has_name = False
        cdef bint has_type = False
        cdef int metrics = 0
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
                metrics += 1
            elif tag == 0x0A and not has_name:
                check_text(field)
                name = field
                has_name = True
            elif tag == 0x12 or tag == 0x2A:
                check_text(field)
            else:
                raise GIVE_UP
        if name.size == 0 or name.size > MAX_NAME_LENGTH or not has_type or metrics == 0:
            raise GIVE_UP
        self.take_metrics(family, name, value_field(kind))
        self.received += metrics
        return 0

    cdef int take_metrics(self, Span family, Span name, uint8_t value_tag) except -1:
        cdef const uint8_t* end = family.start + family.size
        cdef const uint8_t* p = family.start
        cdef Span field
        cdef uint64_t ignored
        cdef int64_t previous = -1 << 62
        cdef uint8_t tag
        cdef bytes name_label = encode_label(b"__name__", name.start[: name.size])
        cdef list named = self.prepared.rules.find(name)
        self.labels.forget()
        while p < end:
            tag = p[0]
            p += 1
            if tag == 0x18:
                read_number(&p, end, &ignored)
                continue
            read_span(&p, end, &field)
            if tag == 0x22:
                previous = self.take_metric(field, name, name_label, named, value_tag, previous)
        self.newest = max(self.newest, previous)
        return 0

    cdef int64_t take_metric(
        self,
        Span metric,
        Span name,
        bytes name_label,
        list named,
        uint8_t value_tag,
        int64_t previous,
    ) except? -1:
        """Take one metric, and return its timestamp."""
        cdef const uint8_t* p = metric.start
        cdef const uint8_t* end = p + metric.size
        cdef const uint8_t* field_start
        cdef const uint8_t* labels_end = p
        cdef const uint8_t* value = NULL
        cdef Span field
        cdef uint64_t stamp = 0
        cdef int64_t when
        cdef bint has_stamp = False
        cdef uint8_t tag
        self.labels.start()
        while p < end:
            field_start = p
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
                if not self.labels.repeat(field_start, field):
                    check_label(self.labels.read(field_start, field))
                labels_end = p
            elif tag == value_tag and value == NULL:
                if field.size != 9 or field.start[0] != 0x09:
                    raise GIVE_UP
                value = field.start + 1
            else:
                raise GIVE_UP
        when = <int64_t>stamp
        if not has_stamp or value == NULL or when < previous or when < self.oldest:
            raise GIVE_UP
        self.labels.check_texts(metric.start, labels_end)
        self.check_required()
        self.count_drift(when)
        if self.prepared.rules.allow(self.labels, name, named):
            if not self.prepared.keep_times:
                self.put_series(name_label, value, self.now)
            elif when != 0:
                self.put_series(name_label, value, when)
            else:  # protobuf leaves zeros out
                raise GIVE_UP
        else:
            self.dropped += 1
            if self.examples.wants(name):
                self.labels.add(name_label)
                self.examples.add(self.labels)
        return when

    cdef inline void count_drift(self, int64_t when) noexcept:
        if when < self.now - self.drift:
            self.past += 1
        elif when > self.now + self.drift:
            self.future += 1
        else:
            self.present += 1
        if when > self.now:
            self.after_now += 1

    cdef int check_required(self) except -1:
        cdef Name name
        cdef Label* label
        for name in self.required:
            if self.labels.ordered and name.at < self.labels.count:
                label = &self.labels.items[name.at]
            else:
                label = self.labels.find(name.text, name.key)
                if label == NULL:
                    raise GIVE_UP
                name.at = label - &self.labels.items[0]
            if not is_same(label.value, name.wanted):
                raise GIVE_UP
        return 0

    cdef int put_series(self, bytes name_label, const uint8_t* value, int64_t stamp) except -1:
        cdef Output output = self.output
        cdef bytes encoded
        cdef Span key
        cdef Py_ssize_t start, labels_size, sample_size
        cdef uint32_t hash
        cdef uint64_t bits
        cdef int read = self.labels.count
        self.labels.add(name_label)
        for encoded in self.prepared.added:
            self.labels.add(encoded)
        if not self.labels.is_arranged():
            self.labels.remove(self.prepared.removed, read)
            self.labels.sort()
            self.labels.keep_first()
        labels_size = self.labels.size()
        memcpy(&bits, value, 8)
        sample_size = (0 if bits == 0 else 9) + 1 + number_size(<uint64_t>stamp)
        output.reserve(labels_size + sample_size + 32)
        # This is more than what the reference counts, and so no more than it allows.
        self.spent += labels_size + SERIES_BYTES
        if self.spent > self.limit:
            raise GIVE_UP
        start = output.size
        output.put_byte(0x0A)
        output.put_number(<uint64_t>(labels_size + 2 + sample_size))
        key.start = output.data + output.size
        key.size = labels_size
        self.labels.put(output)
        hash = hash_of(key)
        if self.seen.find(output.data, key, hash) >= 0:
            self.duplicates += 1
            output.size = start
            return 0
        self.seen.add(key.start - output.data, key.size, hash)
        output.put_byte(0x12)
        output.put_byte(<uint8_t>sample_size)
        if bits != 0:
            output.put_byte(0x09)
            output.put(value, 8)
        output.put_byte(0x10)
        output.put_number(<uint64_t>stamp)
        self.series += 1
        return 0


cdef inline int check_label(Label* label) except -1:
    if label.name.size > MAX_NAME_LENGTH or label.value.size > MAX_NAME_LENGTH:
        raise GIVE_UP
    if has_name(label, METRIC_NAME.text, METRIC_NAME.key):
        raise GIVE_UP
    return 0


cdef uint8_t value_field(uint64_t kind) except 0:
    """The tag of the field that holds the value of a metric, by the type of its family."""
    if kind == 0:
        return COUNTER_FIELD
    if kind == 1:
        return GAUGE_FIELD
    if kind == 3:
        return UNTYPED_FIELD
    raise GIVE_UP


def convert(bytes body, Prepared prepared, required, int64_t now, int64_t max_age, int64_t drift, limit):
    """Convert delimited families.

    Args:
        body: the decompressed upload.
        prepared: what is done with it.
        required: the labels that every sample must carry, with their values; none empty.
        now: the time, in milliseconds since the epoch.
        max_age: how many milliseconds old a timestamp may be.
        drift: within how many milliseconds of now a timestamp counts as present.
        limit: how many bytes it may become.

    Returns:
        A `Converted`; None: this is not the usual case.
    """
    # A series gets its name, and loses its timestamp's and its value's tags.
    room = len(body) + len(body) // 4 + 1024
    cdef Conversion run = Conversion(prepared, required, now, max_age, drift, limit, room)
    try:
        run.run(body)
    except GiveUp:
        return None
    return Converted(
        payload=run.output.take(),
        series=run.series,
        received=run.received,
        dropped=run.dropped,
        duplicates=run.duplicates,
        past=run.past,
        present=run.present,
        future=run.future,
        overwritten_future=run.after_now,
        newest_ms=run.newest,
        dropped_examples=tuple(run.examples.found),
    )
