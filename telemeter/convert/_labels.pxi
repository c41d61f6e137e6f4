# The labels of a series, and the rules that decide by them whether it may pass.

cdef enum:
    MAX_LABELS = 128
    # Besides those that were read there are those that were inserted.
    MAX_SORTED_LABELS = 256
    # Runs of so many labels are sorted by insertion, and then merged.
    SHORT_RUN = 16
    # How many bytes a run may show to regexes before it takes too long; a call counts as some more.
    MAX_SHOWN = 1 << 20
    COST_OF_CALL = 200

cdef struct Label:
    Span whole  # the field as it is encoded: tag, length, name and value; no start: not encoded yet
    Span name
    Span value
    uint64_t key
    bint is_removed

cdef Span NOTHING = span_of(b"")


cdef inline uint64_t key_of(Span name, const uint8_t* end) noexcept:
    """The first eight bytes of a name as a number, which has the order of the bytes.

    Most names can be told apart and put into order by that alone.

    Args:
        name: the name.
        end: up to where there are bytes that may be read, also behind the name.
    """
    cdef const uint8_t* p = name.start
    cdef uint64_t key = 0
    cdef Py_ssize_t i
    if end - p >= 8:
        key = (
            <uint64_t>p[0] << 56
            | <uint64_t>p[1] << 48
            | <uint64_t>p[2] << 40
            | <uint64_t>p[3] << 32
            | <uint64_t>p[4] << 24
            | <uint64_t>p[5] << 16
            | <uint64_t>p[6] << 8
            | <uint64_t>p[7]
        )
        if name.size >= 8:
            return key
        return key & ~(<uint64_t>0xFFFFFFFFFFFFFFFF >> (8 * name.size))
    for i in range(min(name.size, 8)):
        key |= <uint64_t>p[i] << (56 - 8 * i)
    return key


cdef inline bint is_before(Label* one, Label* other) noexcept:
    """Return whether the name of one comes before that of the other by their bytes."""
    cdef Py_ssize_t shorter
    cdef int order
    if one.key != other.key:
        return one.key < other.key
    shorter = one.name.size if one.name.size < other.name.size else other.name.size
    order = memcmp(one.name.start, other.name.start, shorter)
    return order < 0 or (order == 0 and one.name.size < other.name.size)


cdef inline bint has_name(Label* label, Span name, uint64_t key) noexcept:
    return label.key == key and is_same(label.name, name)


cdef int read_label(Span field, Label* label) except -1:
    """Read name and value of an encoded label; what is absent is empty."""
    parse_label(field, &label.name, &label.value)
    if label.name.start == NULL:
        label.name = NOTHING
    if label.value.start == NULL:
        label.value = NOTHING
    label.key = key_of(label.name, field.start + field.size)
    return 0


cdef inline Py_ssize_t text_size(Span text) noexcept:
    """The size of a field with a text; an empty one is left out."""
    return field_size(text.size) if text.size else 0


cdef inline Py_ssize_t label_size(Span name, Span value) noexcept:
    """The size of a label's message."""
    return text_size(name) + text_size(value)


cdef inline void put_text(Output output, uint8_t tag, Span text) noexcept:
    if text.size:
        output.put_byte(tag)
        output.put_number(<uint64_t>text.size)
        output.put(text.start, text.size)


cdef inline void put_label(Output output, Span name, Span value) noexcept:
    """Put a label as field 1; there must be room for it."""
    output.put_byte(0x0A)
    output.put_number(<uint64_t>label_size(name, value))
    put_text(output, 0x0A, name)
    put_text(output, 0x12, value)


@cython.final
cdef class Name:
    """The name of a label, and the value that it should have."""

    cdef bytes name
    cdef bytes value
    cdef Span text
    cdef Span wanted
    cdef uint64_t key
    cdef int at  # where one run has found it last

    def __init__(self, bytes name, bytes value=b""):
        self.name = name
        self.value = value
        self.text = span_of(name)
        self.wanted = span_of(value)
        self.key = key_of(self.text, self.text.start + self.text.size)


cdef Name METRIC_NAME = Name(b"__name__")


@cython.final
cdef class Labels:
    """The labels of one series, in the order in which they were read, and sorted.

    Series mostly have labels of the same names, in the same places, as the series before. So what
    depends on the names alone (which labels go on, in what order) stays until a name differs.
    """

    cdef Label items[MAX_LABELS]
    cdef Label* sorted[MAX_SORTED_LABELS]
    cdef Label* apart[MAX_LABELS]
    cdef Label* spare[MAX_LABELS]
    cdef Label inserted[MAX_LABELS]
    cdef int count
    cdef int known  # how many items have names that were read, in this series or one before
    cdef int left  # how many are sorted
    cdef int apart_count
    cdef int inserted_count
    cdef bint is_apart
    cdef Py_ssize_t shown  # how many bytes of them regexes have seen
    cdef int ordered  # how many items `sorted` is an order of; 0: it is not

    cdef inline void start(self) noexcept:
        """Begin with the next series; what was read before must still be there."""
        self.count = 0

    cdef void forget(self) noexcept:
        """Begin with the next series, and forget those before."""
        self.count = self.known = self.ordered = 0

    cdef Label* next(self) except NULL:
        """The place for one more label."""
        if self.count >= MAX_LABELS:
            raise GIVE_UP
        return &self.items[self.count]

    cdef inline Label* renew(self) except NULL:
        """The place for one more label, which has another name than the one it is the place of."""
        cdef Label* label = self.next()
        label.is_removed = False
        self.known = self.count
        self.ordered = 0
        return label

    cdef inline bint repeat(self, const uint8_t* start, Span field) noexcept:
        """Read a label from its field, if it has a value and the name that the last one here had.

        Both have up to 127 bytes, as nearly all have; any other label is left to `read`.
        """
        cdef Label* label = &self.items[self.count]
        cdef const uint8_t* value
        cdef Py_ssize_t size  # of the tag and the length of the name, the name, and another tag
        if self.count >= self.known or label.name.size > 127:
            return False
        size = label.name.size + 3
        if field.size < size + 2 or not has_same_bytes(field.start, label.name.start - 2, size):
            return False
        value = field.start + size + 1
        if (value - 1)[0] > 0x7F or value + (value - 1)[0] != field.start + field.size:
            return False
        label.name.start = field.start + 2
        label.value.start = value
        label.value.size = (value - 1)[0]
        label.whole.start = start
        label.whole.size = value + label.value.size - start
        self.count += 1
        return True

    cdef Label* read(self, const uint8_t* start, Span field) except NULL:
        """Read a label from its field; if it lacks its name or value, it does not stay."""
        cdef Label* label = self.renew()
        read_label(field, label)
        if label.name.size and label.value.size:
            label.whole.start = start
            label.whole.size = field.start + field.size - start
            self.count += 1
            self.known = self.count
        else:
            check_text(label.name)
            check_text(label.value)
        return label

    cdef int look_up(self, Span name, uint64_t key, Span value) except -1:
        """Take a label that is not encoded yet; names are the same if they lie in one place."""
        cdef Label* label = self.next()
        cdef bint is_known = self.count < self.known
        if not is_known or label.name.start != name.start or label.name.size != name.size:
            label = self.renew()
            label.name = name
            label.key = key
        if value.size == 0:
            self.ordered = 0  # it will be left out
        label.value = value
        label.whole.start = NULL
        label.whole.size = field_size(label_size(name, value))
        self.count += 1
        self.known = max(self.known, self.count)
        return 0

    cdef int check_texts(self, const uint8_t* start, const uint8_t* end) except -1:
        """Give up on texts that are not UTF-8; start and end: where all labels were read."""
        cdef int i
        if not is_ascii(start, end):
            for i in range(self.count):
                check_text(self.items[i].name)
                check_text(self.items[i].value)
        return 0

    cdef int add(self, bytes encoded) except -1:
        """Add a label that is encoded already, behind those that were read."""
        cdef const uint8_t* start = <const uint8_t*>PyBytes_AS_STRING(encoded)
        cdef const uint8_t* p = start + 1
        cdef Span field
        cdef int known = min(self.known, self.count)
        if self.count < self.ordered and self.items[self.count].whole.start == start:
            self.count += 1
        else:
            read_span(&p, start + PyBytes_GET_SIZE(encoded), &field)
            self.read(start, field)
        self.known = known
        return 0

    cdef Label* find(self, Span name, uint64_t key) noexcept:
        """The first label of that name, or NULL."""
        cdef int i
        for i in range(self.count):
            if has_name(&self.items[i], name, key):
                return &self.items[i]
        return NULL

    cdef Span value_of(self, Name name) noexcept:
        """The value of the first label of that name; empty without such a label."""
        cdef Label* label = self.find(name.text, name.key)
        return NOTHING if label == NULL else label.value

    cdef inline bint is_arranged(self) noexcept:
        """Return whether `sorted` and `apart` are as this series needs them."""
        return self.ordered == self.count and self.count != 0

    cdef void remove(self, list names, int read) noexcept:
        """Have those of some names left out by `sort`, if they are among so many first ones."""
        cdef Name name
        cdef int i
        for name in names:
            for i in range(read):
                if has_name(&self.items[i], name.text, name.key):
                    self.items[i].is_removed = True

    cdef void sort(self) noexcept:
        """Sort the labels by name, those of one name in the order they have.

        They mostly come sorted, so this seldom moves anything but those that were added.
        """
        cdef int i, j, start, stop, width
        cdef Label* moving
        self.left = self.apart_count = self.is_apart = 0
        for i in range(self.count):
            if not self.items[i].is_removed:
                self.sorted[self.left] = &self.items[i]
                self.left += 1
        self.ordered = self.count
        for start in range(0, self.left, SHORT_RUN):
            for i in range(start + 1, min(start + SHORT_RUN, self.left)):
                moving = self.sorted[i]
                j = i
                while j > start and is_before(moving, self.sorted[j - 1]):
                    self.sorted[j] = self.sorted[j - 1]
                    j -= 1
                self.sorted[j] = moving
        width = SHORT_RUN
        while width < self.left:
            for start in range(0, self.left, width * 2):
                stop = min(start + width * 2, self.left)
                self.merge(start, min(start + width, self.left), stop)
            memcpy(self.sorted, self.spare, self.left * sizeof(Label*))
            width *= 2

    cdef bint is_sorted(self) noexcept:
        """Return whether they are in order, and no name is there twice."""
        cdef int i
        for i in range(1, self.left):
            if not is_before(self.sorted[i - 1], self.sorted[i]):
                return False
        return True

    cdef void merge(self, int start, int middle, int end) noexcept:
        cdef int one = start
        cdef int other = middle
        cdef int i
        for i in range(start, end):
            if other >= end or (one < middle and not is_before(self.sorted[other], self.sorted[one])):
                self.spare[i] = self.sorted[one]
                one += 1
            else:
                self.spare[i] = self.sorted[other]
                other += 1

    cdef void keep_first(self) noexcept:
        """Keep only the first of each name; they must be sorted."""
        cdef int kept = 0
        cdef int i
        for i in range(self.left):
            if kept == 0 or is_before(self.sorted[kept - 1], self.sorted[i]):
                self.sorted[kept] = self.sorted[i]
                kept += 1
        self.left = kept

    cdef void keep_filled(self) noexcept:
        """Keep only those that have a value; that says nothing of the series that follow."""
        cdef int kept = 0
        cdef int i
        for i in range(self.left):
            if self.sorted[i].value.size:
                self.sorted[kept] = self.sorted[i]
                kept += 1
        if kept < self.left:
            self.left = kept
            self.ordered = 0

    cdef int prepare_inserted(self, list encoded) except -1:
        """Read labels that `put_apart` inserts; what is given must stay where it is."""
        cdef const uint8_t* p
        cdef Span field
        cdef bytes label
        for label in encoded:
            p = <const uint8_t*>PyBytes_AS_STRING(label)
            self.inserted[self.inserted_count].whole = span_of(label)
            p += 1
            read_span(&p, p + PyBytes_GET_SIZE(label) - 1, &field)
            read_label(field, &self.inserted[self.inserted_count])
            self.inserted_count += 1
        return 0

    cdef void insert(self, Label* label) noexcept:
        """Insert a label into those that are sorted; none of them has its name."""
        cdef int at = self.left
        while at > 0 and is_before(label, self.sorted[at - 1]):
            self.sorted[at] = self.sorted[at - 1]
            at -= 1
        self.sorted[at] = label
        self.left += 1

    cdef void put_apart(self, list names) noexcept:
        """Keep only those of other names, and put these apart, unless that was done.

        Then the prepared labels are inserted, whose names must be among those.
        """
        cdef Label* label
        cdef Name name
        cdef int kept = 0
        cdef int i
        cdef bint goes_on
        if self.is_apart:
            return
        self.is_apart = True
        for i in range(self.left):
            label = self.sorted[i]
            goes_on = True
            for name in names:
                if has_name(label, name.text, name.key):
                    goes_on = False
            if goes_on:
                self.sorted[kept] = label
                kept += 1
            else:
                self.apart[self.apart_count] = label
                self.apart_count += 1
        self.left = kept
        for i in range(self.inserted_count):
            self.insert(&self.inserted[i])

    cdef void show(self) noexcept:
        """Sort all of them, whatever was removed, for people to see."""
        cdef int i
        for i in range(self.count):
            self.items[i].is_removed = False
        self.sort()
        self.keep_first()
        self.keep_filled()
        self.ordered = 0

    cdef Py_ssize_t size(self) noexcept:
        """Return the size of those that are left, in bytes."""
        cdef Py_ssize_t size = 0
        cdef int i
        for i in range(self.left):
            size += self.sorted[i].whole.size
        return size

    cdef void put(self, Output output) noexcept:
        """Put those that are left; there must be room for them."""
        cdef const uint8_t* start = NULL
        cdef const uint8_t* end = NULL
        cdef Label* label
        cdef int i
        for i in range(self.left):
            label = self.sorted[i]
            if label.whole.start == NULL:
                if start != NULL:
                    output.put(start, end - start)
                    start = end = NULL
                put_label(output, label.name, label.value)
            elif label.whole.start == end:
                end += label.whole.size
            else:
                if start != NULL:
                    output.put(start, end - start)
                start = label.whole.start
                end = start + label.whole.size
        if start != NULL:
            output.put(start, end - start)


@cython.final
cdef class Examples:
    """A few of the series that were dropped, for people: one each of the first names."""

    cdef list names
    cdef list found

    def __cinit__(self):
        self.names = []
        self.found = []

    cdef bint wants(self, Span name) except -1:
        """Return whether a series of this name is the first; the next one of this name is not."""
        cdef bytes known
        if len(self.names) >= MAX_EXAMPLES:
            return False
        for known in self.names:
            if is_same(span_of(known), name):
                return False
        self.names.append(name.start[: name.size])
        return True

    cdef int add(self, Labels labels) except -1:
        """Add a series."""
        cdef Output output
        labels.show()
        if labels.size() <= MAX_EXAMPLE:
            output = Output(MAX_EXAMPLE)
            labels.put(output)
            self.found.append(output.take())
        return 0


@cython.final
cdef class Matcher:
    """One condition of a rule."""

    cdef Name label
    cdef bint negative
    cdef bint is_metric
    cdef object regex  # what tells whether a text matches, or None
    cdef Table known
    cdef Output texts
    cdef Output answers

    def __init__(self, name, value, negative, regex):
        self.label = Name(name.encode(), value.encode())
        self.negative = negative
        self.is_metric = name == "__name__"
        self.regex = regex
        self.forget()

    cdef int forget(self) except -1:
        self.known = Table()
        self.texts = Output(64)
        self.answers = Output(64)
        return 0

    cdef bint holds(self, Labels labels, Span metric) except -1:
        cdef Span value = metric if self.is_metric else labels.value_of(self.label)
        if self.regex is None:
            return self.negative != is_same(value, self.label.wanted)
        return self.matches(labels, value)

    cdef bint matches(self, Labels labels, Span value) except -1:
        """Return whether the regex matches a value, remembered within bounds."""
        cdef bint is_short = value.size <= MAX_REMEMBERED_LENGTH
        cdef uint32_t hash = hash_of(value) if is_short else 0
        cdef int64_t at = self.known.find(self.texts.data, value, hash) if is_short else -1
        cdef bint answer
        if at >= 0:
            return self.answers.data[at]
        labels.shown += value.size + COST_OF_CALL
        if labels.shown > MAX_SHOWN:
            raise GIVE_UP
        answer = self.regex(value.start[: value.size].decode())
        # Another thread may have got here while the regex was tried.
        if is_short:
            if self.known.count >= MAX_REMEMBERED:
                self.forget()
            if self.known.find(self.texts.data, value, hash) < 0:
                self.texts.reserve(value.size)
                self.answers.reserve(1)
                self.known.add(self.texts.size, value.size, hash)
                self.texts.put(value.start, value.size)
                self.answers.put_byte(answer)
        return answer

    cdef bint is_just(self, Name metric) noexcept:
        """Return whether it asks for that metric name and nothing else."""
        return (
            self.is_metric
            and self.regex is None
            and not self.negative
            and is_same(self.label.wanted, metric.text)
        )


@cython.final
cdef class Rules:
    """The rules of what may pass, by metric name.

    Args:
        rules: for each rule its exact metric name or None, and its conditions as tuples of name,
            value, whether it is negative, and a function for a regex or None.
    """

    cdef bint everything
    cdef Table names
    cdef Output texts
    cdef list by_name
    cdef list any_name

    def __init__(self, rules):
        cdef Name metric
        cdef Matcher matcher
        self.names = Table()
        self.texts = Output(1024)
        self.by_name = []
        self.any_name = []
        self.everything = not rules
        for name, conditions in rules:
            matchers = [Matcher(*condition) for condition in conditions]
            if name is None:
                self.any_name.append(matchers)
                continue
            metric = Name(name.encode())
            # The name needs no second look, unless the rule says more of it.
            rest = []
            for matcher in matchers:
                if not matcher.is_just(metric):
                    rest.append(matcher)
            self.of_name(metric).append(rest)
        for named in self.by_name:
            named.sort(key=len)  # what asks for the name alone comes first

    cdef list of_name(self, Name metric):
        """The rules for a name, perhaps none yet."""
        cdef list named = self.find(metric.text)
        if named is None:
            self.texts.reserve(metric.text.size)
            self.names.add(self.texts.size, metric.text.size, hash_of(metric.text))
            self.texts.put(metric.text.start, metric.text.size)
            named = []
            self.by_name.append(named)
        return named

    cdef list find(self, Span metric):
        """The rules for a name, or None."""
        cdef int64_t at = self.names.find(self.texts.data, metric, hash_of(metric))
        return None if at < 0 else self.by_name[at]

    cdef bint allow(self, Labels labels, Span metric, list named) except -1:
        """Return whether at least one rule selects a series; named: the rules for its name."""
        if self.everything:
            return True
        return (named is not None and is_selected(labels, metric, named)) or is_selected(
            labels, metric, self.any_name
        )


cdef bint is_selected(Labels labels, Span metric, list rules) except -1:
    cdef list matchers
    cdef Matcher matcher
    for matchers in rules:
        for matcher in matchers:
            if not matcher.holds(labels, metric):
                break
        else:
            return True
    return False
