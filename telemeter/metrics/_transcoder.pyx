# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""One pass from an upload's bytes to a remote-write request's, for the usual case.

What is usual: families of counters, gauges and untyped metrics, encoded as every library encodes
them, of which each sample obeys the rules. There the encoded labels are copied as they are (both
formats encode a label alike), and no object is built per label. At anything else `convert` gives up
and returns None: then the straightforward code decides, and says what is wrong. So what this module
accepts must be right, and what it does not know costs time only.

Every read is checked against the end of the message it is in.
"""

include "_wire.pxi"

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

cdef enum:
    MAX_LABELS = 128
    MAX_NAME = 255
    # How much is written at the most before the straightforward code takes over and counts.
    MAX_OUTPUT = 8 << 20
    GAUGE_FIELD = 0x12
    COUNTER_FIELD = 0x1A
    UNTYPED_FIELD = 0x2A

cdef class Matcher:
    """One condition of a rule."""

    cdef bytes name
    cdef bytes value
    cdef bint negative
    cdef bint is_name
    cdef object regex  # what tells whether a text matches, or None

    def __init__(self, name, value, negative, regex):
        self.name = name.encode()
        self.value = value.encode()
        self.negative = negative
        self.is_name = name == "__name__"
        self.regex = regex


cdef class Plan:
    """What is done with every upload, prepared.

    Args:
        rules: for each rule its exact metric name or None, and its conditions as tuples of name,
            value, whether it is negative, and a function for a regex or None.
        added: names and values of the labels to add.
        elided: names of the labels to remove.
    """

    cdef dict by_name
    cdef list any_name
    cdef bint everything
    cdef list removed  # names of labels that do not go on as they came
    cdef list added  # encoded labels

    def __init__(self, rules, added, elided):
        self.by_name = {}
        self.any_name = []
        self.everything = not rules
        for name, conditions in rules:
            matchers = [Matcher(*condition) for condition in conditions]
            if name is None:
                self.any_name.append(matchers)
            else:
                # The name needs no second look, unless the rule says more of it.
                rest = [m for m in matchers if not _is_just(m, name)]
                self.by_name.setdefault(name.encode(), []).append(rest)
        self.removed = [name.encode() for name in {*elided, *(name for name, _ in added)}]
        self.added = [
            encode_label(name.encode(), value.encode())
            for name, value in added
            if name not in elided and value
        ]


def _is_just(Matcher matcher, name):
    return (
        matcher.is_name
        and matcher.regex is None
        and not matcher.negative
        and matcher.value == name.encode()
    )


cdef class Conversion:
    """One run over an upload."""

    cdef Plan plan
    cdef list required  # of pairs of bytes
    cdef int64_t now
    cdef int64_t oldest
    cdef int64_t drift
    cdef Output output
    cdef set seen
    cdef Label labels[MAX_LABELS]
    cdef int count
    cdef public int series, received, dropped, duplicates, past, present, future, after_now

    def __init__(self, Plan plan, required, int64_t now, int64_t max_age, int64_t drift, room):
        self.plan = plan
        self.required = [(name.encode(), value.encode()) for name, value in required.items()]
        self.now = now
        self.oldest = now - max_age
        self.drift = drift
        self.output = Output(room)
        self.seen = set()

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
        cdef Span name
        cdef Span field
        cdef uint64_t kind = 0
        cdef bint has_type = False
        cdef int metrics = 0
        cdef uint8_t tag
        name.start = NULL
        name.size = 0
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
            elif tag == 0x0A and name.start == NULL:
                check_text(field)
                name = field
            elif tag == 0x12 or tag == 0x2A:
                check_text(field)
            else:
                raise GIVE_UP
        if name.size == 0 or name.size > MAX_NAME or not has_type or metrics == 0:
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
        cdef bytes key = PyBytes_FromStringAndSize(<const char*>name.start, name.size)
        cdef bytes name_label = encode_label(b"__name__", key)
        cdef list rules = self.plan.by_name.get(key, [])
        while p < end:
            tag = p[0]
            p += 1
            if tag == 0x18:
                read_number(&p, end, &ignored)
                continue
            read_span(&p, end, &field)
            if tag == 0x22:
                previous = self.take_metric(field, name, name_label, rules, value_tag, previous)
        return 0

    cdef int64_t take_metric(
        self,
        Span metric,
        Span name,
        bytes name_label,
        list rules,
        uint8_t value_tag,
        int64_t previous,
    ) except? -1:
        """Take one metric, and return its timestamp."""
        cdef const uint8_t* p = metric.start
        cdef const uint8_t* end = p + metric.size
        cdef const uint8_t* field_start
        cdef const uint8_t* value = NULL
        cdef Label* label
        cdef Span field
        cdef uint64_t stamp = 0
        cdef int64_t when
        cdef bint has_stamp = False
        cdef uint8_t tag
        self.count = 0
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
                # One place for the name, one for each label that is added.
                if self.count >= MAX_LABELS - 1 - len(self.plan.added):
                    raise GIVE_UP
                label = &self.labels[self.count]
                parse_label(field, label)
                if label.name.size > MAX_NAME or label.value.size > MAX_NAME:
                    raise GIVE_UP
                check_text(label.name)
                check_text(label.value)
                if is_equal(label.name, b"__name__", 8):
                    raise GIVE_UP
                if label.name.size and label.value.size:
                    label.whole.start = field_start
                    label.whole.size = p - field_start
                    self.count += 1
            elif tag == value_tag and value == NULL:
                if field.size != 9 or field.start[0] != 0x09:
                    raise GIVE_UP
                value = field.start + 1
            else:
                raise GIVE_UP
        when = <int64_t>stamp
        if not has_stamp or value == NULL or when < previous or when < self.oldest:
            raise GIVE_UP
        self.check_required()
        self.count_drift(when)
        if self.allows(name, rules):
            self.put_series(name_label, value)
        else:
            self.dropped += 1
        return when

    cdef inline void count_drift(self, int64_t when):
        if when < self.now - self.drift:
            self.past += 1
        elif when > self.now + self.drift:
            self.future += 1
        else:
            self.present += 1
        if when > self.now:
            self.after_now += 1

    cdef Label* find(self, bytes name):
        """The first label of that name, or NULL."""
        cdef const char* wanted = PyBytes_AS_STRING(name)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(name)
        cdef int i
        for i in range(self.count):
            if is_equal(self.labels[i].name, wanted, size):
                return &self.labels[i]
        return NULL

    cdef int check_required(self) except -1:
        cdef Label* label
        cdef bytes name
        cdef bytes value
        for name, value in self.required:
            label = self.find(name)
            if label == NULL or not is_equal(
                label.value, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value)
            ):
                raise GIVE_UP
        return 0

    cdef bint allows(self, Span name, list rules) except -1:
        """Whether at least one rule selects the metric whose labels were read."""
        cdef list matchers
        if self.plan.everything:
            return True
        for matchers in rules:
            if self.meets(name, matchers):
                return True
        for matchers in self.plan.any_name:
            if self.meets(name, matchers):
                return True
        return False

    cdef bint meets(self, Span name, list matchers) except -1:
        cdef Matcher matcher
        cdef Label* label
        cdef Span value
        cdef bint holds
        for matcher in matchers:
            value.start = NULL
            value.size = 0
            if matcher.is_name:
                value = name
            else:
                label = self.find(matcher.name)
                if label != NULL:
                    value = label.value
            if matcher.regex is not None:
                holds = matcher.regex(
                    PyUnicode_DecodeUTF8(<const char*>value.start, value.size, NULL)
                    if value.size
                    else ""
                )
            else:
                holds = matcher.negative != is_equal(
                    value, PyBytes_AS_STRING(matcher.value), PyBytes_GET_SIZE(matcher.value)
                )
            if not holds:
                return False
        return True

    cdef bint is_removed(self, Label* label):
        cdef bytes name
        for name in self.plan.removed:
            if is_equal(label.name, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)):
                return True
        return False

    cdef int add_label(self, bytes encoded) except -1:
        """Put a label of ours behind those that were read."""
        cdef const uint8_t* start = <const uint8_t*>PyBytes_AS_STRING(encoded)
        cdef const uint8_t* p = start + 1
        cdef Label* label = &self.labels[self.count]
        cdef Span field
        read_span(&p, start + PyBytes_GET_SIZE(encoded), &field)
        parse_label(field, label)
        label.whole.start = start
        label.whole.size = PyBytes_GET_SIZE(encoded)
        self.count += 1
        return 0

    cdef int put_series(self, bytes name_label, const uint8_t* value) except -1:
        cdef Output output = self.output
        cdef bytes encoded
        cdef bytes key
        cdef Py_ssize_t start, labels_size, sample_size, i
        cdef int kept = 0
        cdef bint is_zero
        cdef uint64_t bits
        if self.plan.removed:
            for i in range(self.count):
                if not self.is_removed(&self.labels[i]):
                    self.labels[kept] = self.labels[i]
                    kept += 1
            self.count = kept
        self.add_label(name_label)
        for encoded in self.plan.added:
            self.add_label(encoded)
        self.sort()
        labels_size = 0
        for i in range(self.count):
            labels_size += self.labels[i].whole.size
        memcpy(&bits, value, 8)
        is_zero = bits == 0
        sample_size = (0 if is_zero else 9) + 1 + number_size(<uint64_t>self.now)
        output.reserve(labels_size + sample_size + 32)
        if output.size > MAX_OUTPUT:
            raise GIVE_UP
        start = output.size
        output.put_byte(0x0A)
        output.put_number(labels_size + 2 + sample_size)
        i = output.size
        self.put_labels()
        key = PyBytes_FromStringAndSize(<const char*>(output.data + i), labels_size)
        i = len(self.seen)
        self.seen.add(key)
        if len(self.seen) == i:
            self.duplicates += 1
            output.size = start
            return 0
        output.put_byte(0x12)
        output.put_byte(<uint8_t>sample_size)
        if not is_zero:
            output.put_byte(0x09)
            output.put(value, 8)
        output.put_byte(0x10)
        output.put_number(<uint64_t>self.now)
        self.series += 1
        return 0

    cdef void sort(self):
        """Sort the labels by name, and drop all but the first of each name.

        They mostly come sorted, so this seldom moves anything but those that were added.
        """
        cdef int i, j, kept
        cdef Label moving
        for i in range(1, self.count):
            j = i
            if compare(&self.labels[j - 1].name, &self.labels[j].name) <= 0:
                continue
            moving = self.labels[i]
            while j > 0 and compare(&self.labels[j - 1].name, &moving.name) > 0:
                self.labels[j] = self.labels[j - 1]
                j -= 1
            self.labels[j] = moving
        kept = 1
        for i in range(1, self.count):
            if compare(&self.labels[kept - 1].name, &self.labels[i].name) != 0:
                if kept != i:
                    self.labels[kept] = self.labels[i]
                kept += 1
        self.count = kept

    cdef void put_labels(self):
        cdef int i
        for i in range(self.count):
            self.output.put(self.labels[i].whole.start, self.labels[i].whole.size)


cdef uint8_t value_field(uint64_t kind) except 0:
    """The tag of the field that holds the value of a metric, by the type of its family."""
    if kind == 0:
        return COUNTER_FIELD
    if kind == 1:
        return GAUGE_FIELD
    if kind == 3:
        return UNTYPED_FIELD
    raise GIVE_UP


def convert(bytes body, Plan plan, required, int64_t now, int64_t max_age, int64_t drift):
    """Convert delimited families.

    Args:
        body: the decompressed upload.
        plan: what is done with it.
        required: the labels that every sample must carry, with their values; none empty.
        now: the time, in milliseconds since the epoch.
        max_age: how many milliseconds old a timestamp may be.
        drift: within how many milliseconds of now a timestamp counts as present.

    Returns:
        The payload, and the numbers of series, received and dropped metrics, duplicates, timestamps
        in the past, present and future, and timestamps after now. None: this is not the usual case.
    """
    cdef Conversion run = Conversion(plan, required, now, max_age, drift, len(body) * 2 + 4096)
    try:
        run.run(body)
    except GiveUp:
        return None
    payload = PyBytes_FromStringAndSize(<const char*>run.output.data, run.output.size)
    return (
        payload,
        run.series,
        run.received,
        run.dropped,
        run.duplicates,
        run.past,
        run.present,
        run.future,
        run.after_now,
    )
