# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""One pass from the bytes of a remote-write request to those of what may pass, for the usual case.

What is usual: requests as protobuf itself writes them, fields in order and none twice, with at most
128 labels a series. There the encoded labels, samples, exemplars and histograms are copied as they
are. At anything else, and at every series that is refused, `sift` gives up and returns where: then
the straightforward code looks at that series, and says what is wrong; or decides on them all. So
what this module accepts must be right, and what it does not know costs time only.

Every read is checked against the end of the message it is in.
"""

from telemeter.convert.results import Written

include "_limits.pxi"
include "_wire.pxi"
include "_table.pxi"
include "_labels.pxi"
include "_message.pxi"
include "_histogram.pxi"

cdef enum:
    MAX_SORTED = 8 << 20
    MAX_SYMBOLS = 1 << 18
    # Types of metadata.
    HISTOGRAM = 3
    GAUGE_HISTOGRAM = 4
    SUMMARY = 5

cdef struct Earlier:
    Span series  # the first that went on with these labels
    Py_ssize_t elided  # where the labels lie that it lost
    Py_ssize_t elided_size
    bint is_noted  # whether its timestamps are in the table

cdef struct Symbol:
    Span text
    uint64_t key

cdef struct Stamp:
    uint64_t series
    int64_t stamp


@cython.final
cdef class Prepared:
    """The demands on every series, and the changes to it, prepared.

    Args:
        rules: what may pass, see `Rules`.
        added: names and values of the labels to add.
        elided: names of the labels to remove.
        partition: the name of the label that every series must carry.
        most_name: how many bytes the name of a label may have.
        most_value: how many bytes its value may have.
    """

    cdef Rules rules
    cdef list apart  # names of labels that do not go on as they came
    cdef list added  # encoded labels
    cdef Name partition
    cdef Py_ssize_t most_name
    cdef Py_ssize_t most_value
    cdef Py_ssize_t short_enough  # no label is too long that has so many bytes or fewer

    def __init__(self, rules, added, elided, partition, most_name, most_value):
        self.most_name = most_name
        self.most_value = most_value
        self.short_enough = min(most_name, most_value)
        self.rules = Rules(rules)
        self.apart = [Name(name.encode()) for name in {*elided, *(name for name, _ in added)}]
        self.added = [
            encode_label(name.encode(), value.encode())
            for name, value in added
            if name not in elided and value
        ]
        self.partition = Name(partition.encode())


@cython.final
cdef class Sifting:
    """One run over a request."""

    cdef Prepared prepared
    cdef bytes cluster  # or None
    cdef int version
    cdef Py_ssize_t limit
    cdef Output output
    cdef Output tail  # what comes behind the series
    cdef Py_ssize_t wasted  # how many bytes of duplicates were written, and taken back
    cdef Labels labels
    cdef Table seen
    cdef Output earlier
    cdef Output elided_labels
    cdef Table stamps
    cdef Output stamp_texts
    cdef Table described
    cdef Output described_names
    cdef Output symbols
    cdef Py_ssize_t sorted_bytes  # how long the names are that were put in order
    cdef uint64_t symbol_count
    cdef Py_ssize_t begun  # how many series were begun
    cdef bint is_inside  # whether one is being looked at
    cdef bint has_long  # whether a symbol might be too long for a label
    cdef Examples examples
    cdef Span metric  # the name of the series that is looked at
    cdef Span named_metric
    cdef list named  # the rules for that name
    cdef bint only_metadata, is_empty
    cdef Py_ssize_t received, series, dropped, duplicates, samples, histograms, exemplars

    def __init__(self, Prepared prepared, bytes cluster, int version, room):
        self.prepared = prepared
        self.cluster = cluster
        self.version = version
        # 1.0 cannot grow, so there this bounds the duplicates, which take as much work.
        self.limit = MAX_OUTPUT if version == 2 else max(MAX_OUTPUT, 2 * room)
        self.output = Output(room)
        self.tail = Output(64)
        self.labels = Labels()
        self.labels.prepare_inserted(prepared.added)
        self.seen = Table()
        self.earlier = Output(64 * sizeof(Earlier))
        self.elided_labels = Output(64)
        self.examples = Examples()
        self.metric = self.named_metric = NOTHING
        self.named = prepared.rules.find(NOTHING)

    cdef int run(self, bytes body) except -1:
        cdef Span request = span_of(body)
        if self.version == 1:
            self.is_empty = request.size == 0
            self.run_1(request)
        else:
            self.run_2(request)
        if self.series == 0:
            self.output.size = 0
        else:
            self.output.reserve(self.tail.size)
            self.output.put(self.tail.data, self.tail.size)
        return 0

    # --- 1.0 ---------------------------------------------------------------------------------

    cdef int run_1(self, Span request) except -1:
        cdef const uint8_t* p = request.start
        cdef const uint8_t* end = p + request.size
        cdef const uint8_t* start
        cdef Span field
        cdef int order = 1
        while p < end:
            start = p
            if p[0] == 0x0A and order == 1:
                p += 1
                read_span(&p, end, &field)
                self.begun += 1
                self.is_inside = True
                self.take_1(field)
                self.is_inside = False
            elif p[0] == 0x1A and order <= 3:
                order = 3
                p += 1
                read_span(&p, end, &field)
                self.tail.reserve(field.size + 8)
                put_message(self.tail, 0x1A, field, &METADATA_1, size_of(field, &METADATA_1))
            else:
                skip_unknown(&p, end, 3)
                self.tail.reserve(p - start)
                self.tail.put(start, p - start)
                if order < 4:
                    self.only_metadata = order == 3
                    order = 4
        if order == 3:
            self.only_metadata = True
        if self.received:
            self.only_metadata = False
        return 0

    cdef int take_1(self, Span series) except -1:
        cdef const uint8_t* p = series.start
        cdef const uint8_t* end = p + series.size
        cdef const uint8_t* start = p
        cdef Py_ssize_t rest_size = 0
        cdef Py_ssize_t samples = 0
        cdef Py_ssize_t exemplars = 0
        cdef Py_ssize_t histograms = 0
        cdef uint8_t order = 0x12
        cdef uint8_t tag
        cdef Span field
        cdef Span rest
        self.labels.start()
        while p < end and p[0] == 0x0A:
            start = p
            p += 1
            read_span(&p, end, &field)
            if not self.labels.repeat(start, field):
                self.labels.read(start, field)
        self.labels.check_texts(series.start, p)
        if p - series.start > self.prepared.short_enough:
            self.check_lengths()
        rest.start = p
        rest.size = end - p
        while p < end:
            tag = p[0]
            start = p
            if tag < order:
                raise GIVE_UP
            order = tag
            if tag == 0x12 or tag == 0x1A or tag == 0x22:
                p += 1
                read_span(&p, end, &field)
            if tag == 0x12:
                samples += 1
                rest_size += field_size(sample_size(field, &SAMPLE_1))
            elif tag == 0x1A:
                exemplars += 1
                rest_size += field_size(size_of(field, &EXEMPLAR_1))
            elif tag == 0x22:
                histograms += 1
                check_histogram(field, &HISTOGRAM_1)
                rest_size += field_size(size_of(field, &HISTOGRAM_1))
            else:
                skip_unknown(&p, end, 4)
                rest_size += p - start
                order = 0x23
        if not self.may_pass():
            return 0
        if not self.labels.is_arranged():
            self.labels.sort()
            self.labels.keep_first()
        if self.put_labels(series, rest_size):
            self.samples += samples
            self.exemplars += exemplars
            self.histograms += histograms
            if rest_size == rest.size:
                self.output.put(rest.start, rest.size)
            else:
                self.put_rest_1(rest)
        return 0

    cdef int put_rest_1(self, Span rest) except -1:
        """Put what is not labels, less what protobuf leaves out."""
        cdef const uint8_t* p = rest.start
        cdef const uint8_t* end = p + rest.size
        cdef const uint8_t* start
        cdef uint8_t tag
        cdef Span field
        while p < end:
            tag = p[0]
            start = p
            if tag == 0x12 or tag == 0x1A or tag == 0x22:
                p += 1
                read_span(&p, end, &field)
            if tag == 0x12:
                put_message(self.output, tag, field, &SAMPLE_1, sample_size(field, &SAMPLE_1))
            elif tag == 0x1A:
                put_message(self.output, tag, field, &EXEMPLAR_1, size_of(field, &EXEMPLAR_1))
            elif tag == 0x22:
                put_message(self.output, tag, field, &HISTOGRAM_1, size_of(field, &HISTOGRAM_1))
            else:
                skip_unknown(&p, end, 4)
                self.output.put(start, p - start)
        return 0

    # --- 2.0 ---------------------------------------------------------------------------------

    cdef int run_2(self, Span request) except -1:
        cdef const uint8_t* end = request.start + request.size
        cdef const uint8_t* p = request.start
        cdef Span field
        cdef Symbol symbol
        cdef bint is_described = False
        self.stamps = None
        self.described = Table()
        self.described_names = Output(64)
        self.symbols = Output(256 * sizeof(Symbol))
        self.is_empty = True
        while p < end:
            if p[0] == 0x22:
                p += 1
                read_span(&p, end, &symbol.text)
                check_text(symbol.text)
                if symbol.text.size > self.prepared.short_enough:
                    self.has_long = True
                symbol.key = key_of(symbol.text, end)
                if self.symbol_count >= MAX_SYMBOLS:
                    raise GIVE_UP
                self.symbols.reserve(sizeof(Symbol))
                self.symbols.put(<const uint8_t*>&symbol, sizeof(Symbol))
                self.symbol_count += 1
                continue
            self.is_empty = False
            if p[0] == 0x2A:
                p += 1
                read_span(&p, end, &field)
            else:
                skip_unknown(&p, end, 5)
        p = request.start
        while p < end:
            if p[0] == 0x22 or p[0] == 0x2A:
                is_series = p[0] == 0x2A
                p += 1
                read_span(&p, end, &field)
                if is_series:
                    self.begun += 1
                    self.is_inside = True
                    if not self.take_2(field):
                        is_described = True
                    self.is_inside = False
            else:
                skip_unknown(&p, end, 5)
        self.only_metadata = is_described and self.received == 0
        return 0

    cdef inline int symbol(self, uint64_t reference, Symbol* out) except -1:
        if reference >= self.symbol_count:
            raise GIVE_UP
        out[0] = (<Symbol*>self.symbols.data)[reference]
        return 0

    cdef bint take_2(self, Span series) except -1:
        """Take a series; whether it holds more than metadata."""
        cdef const uint8_t* p = series.start
        cdef const uint8_t* end = p + series.size
        cdef Span references = NOTHING
        cdef Span metadata = NOTHING
        cdef Span field
        cdef Py_ssize_t rest_size = 0
        cdef Py_ssize_t samples = 0
        cdef Py_ssize_t exemplars = 0
        cdef Py_ssize_t histograms = 0
        cdef bint is_described
        cdef uint8_t tag
        while p < end:
            tag = p[0]
            if tag == 0x0A or tag == 0x12 or tag == 0x1A or tag == 0x22 or tag == 0x2A:
                p += 1
                read_span(&p, end, &field)
            if tag == 0x0A:
                if references.size:
                    raise GIVE_UP
                references = field
            elif tag == 0x12:
                samples += 1
                rest_size += field_size(sample_size(field, &SAMPLE_2))
            elif tag == 0x1A:
                histograms += 1
                check_histogram(field, &HISTOGRAM_2)
                rest_size += field_size(size_of(field, &HISTOGRAM_2))
            elif tag == 0x22:
                exemplars += 1
                rest_size += field_size(self.exemplar_size(field))
            elif tag == 0x2A:
                if metadata.size:
                    raise GIVE_UP
                metadata = field
            else:
                skip_unknown(&p, end, 5)
        self.read_references(references)
        if self.has_long:
            self.check_lengths()
        is_described = self.check_metadata(metadata)
        if samples + histograms + exemplars == 0:
            if not is_described:
                raise GIVE_UP
            return False
        if self.may_pass() and self.put_labels(series, rest_size):
            self.samples += samples
            self.exemplars += exemplars
            self.histograms += histograms
            self.put_rest_2(series)
            if is_described:
                self.describe(metadata, histograms > 0)
        return True

    cdef int read_references(self, Span references) except -1:
        """Look up the labels, and sort them."""
        cdef const uint8_t* p = references.start
        cdef const uint8_t* end = p + references.size
        cdef Symbol name
        cdef Symbol value
        self.labels.start()
        while p < end:
            self.read_pair(&p, end, &name, &value)
            self.sorted_bytes += name.text.size
            if name.text.size == 0 or self.sorted_bytes > MAX_SORTED:
                raise GIVE_UP
            self.labels.look_up(name.text, name.key, value.text)
        if not self.labels.is_arranged():
            self.labels.sort()
            if not self.labels.is_sorted():
                raise GIVE_UP
            # A label without a value is none, but it must not be there twice either.
            self.labels.keep_filled()
        return 0

    cdef inline int read_pair(
        self, const uint8_t** at, const uint8_t* end, Symbol* name, Symbol* value
    ) except -1:
        cdef uint64_t reference
        read_number(at, end, &reference)
        self.symbol(reference, name)
        read_number(at, end, &reference)
        self.symbol(reference, value)
        return 0

    cdef Py_ssize_t exemplar_size(self, Span exemplar) except -1:
        """The size of an exemplar with its labels written out."""
        cdef Span references = references_of(exemplar)
        return (
            size_of(exemplar, &EXEMPLAR_2)
            - text_size(references)
            + self.own_size(references)
        )

    cdef Py_ssize_t own_size(self, Span references) except -1:
        cdef const uint8_t* p = references.start
        cdef const uint8_t* end = p + references.size
        cdef Py_ssize_t size = 0
        cdef Symbol name
        cdef Symbol value
        while p < end:
            self.read_pair(&p, end, &name, &value)
            size += field_size(label_size(name.text, value.text))
        return size

    cdef int put_exemplar(self, Span exemplar) except -1:
        cdef Span references = references_of(exemplar)
        cdef const uint8_t* p = references.start
        cdef const uint8_t* end = p + references.size
        cdef Symbol name
        cdef Symbol value
        self.output.put_byte(0x1A)
        self.output.put_number(<uint64_t>self.exemplar_size(exemplar))
        while p < end:
            self.read_pair(&p, end, &name, &value)
            put_label(self.output, name.text, value.text)
        return put_fields(self.output, exemplar, &EXEMPLAR_2, 2)

    cdef int put_rest_2(self, Span series) except -1:
        """Put samples, exemplars and histograms, in that order."""
        cdef const uint8_t* end = series.start + series.size
        cdef const uint8_t* p = series.start
        cdef Span field
        while find_field(&p, end, 0x12, &field):
            put_message(self.output, 0x12, field, &SAMPLE_2, sample_size(field, &SAMPLE_2))
        p = series.start
        while find_field(&p, end, 0x22, &field):
            self.put_exemplar(field)
        p = series.start
        while find_field(&p, end, 0x1A, &field):
            put_message(self.output, 0x22, field, &HISTOGRAM_2, size_of(field, &HISTOGRAM_2))
        return 0

    cdef bint check_metadata(self, Span metadata) except -1:
        """Look at all of the metadata, also if no rule lets its series pass; whether there is any."""
        cdef uint64_t most = max(<uint64_t>1, self.symbol_count)
        cdef int number
        for number in range(3, 5):
            if <uint64_t>number_in(metadata, &METADATA_2, number) >= most:
                raise GIVE_UP
        return size_of(metadata, &METADATA_2) > 0

    cdef int describe(self, Span metadata, bint is_native) except -1:
        """Put the metadata of a family, unless there was some before."""
        cdef uint64_t kind = <uint64_t>number_in(metadata, &METADATA_2, 1)
        cdef Span name = NOTHING
        cdef Symbol description
        cdef Symbol unit
        cdef Py_ssize_t size
        cdef uint32_t hash
        cdef int i
        for i in range(self.labels.left):
            if has_name(self.labels.sorted[i], METRIC_NAME.text, METRIC_NAME.key):
                name = self.labels.sorted[i].value
        if not is_native:
            name = family_of(name, kind)
        hash = hash_of(name)
        if self.described.find(self.described_names.data, name, hash) >= 0:
            return 0
        self.described_names.reserve(name.size)
        self.described.add(self.described_names.size, name.size, hash)
        self.described_names.put(name.start, name.size)
        description.text = unit.text = NOTHING
        if self.symbol_count:
            self.symbol(<uint64_t>number_in(metadata, &METADATA_2, 3), &description)
            self.symbol(<uint64_t>number_in(metadata, &METADATA_2, 4), &unit)
        size = text_size(name) + text_size(description.text) + text_size(unit.text)
        if kind:
            size += 1 + number_size(kind)
        self.check_room(size)
        self.tail.reserve(size + 16)
        self.tail.put_byte(0x1A)
        self.tail.put_number(<uint64_t>size)
        if kind:
            self.tail.put_byte(0x08)
            self.tail.put_number(kind)
        put_text(self.tail, 0x12, name)
        put_text(self.tail, 0x22, description.text)
        put_text(self.tail, 0x2A, unit.text)
        return 0

    # --- Both --------------------------------------------------------------------------------

    cdef int check_lengths(self) except -1:
        """Look for names and values of labels that are too long."""
        cdef int i
        for i in range(self.labels.count):
            if (
                self.labels.items[i].name.size > self.prepared.most_name
                or self.labels.items[i].value.size > self.prepared.most_value
            ):
                raise GIVE_UP
        return 0

    cdef bint may_pass(self) except -1:
        """Return whether a rule lets the series pass whose labels were read."""
        cdef Label* label = self.labels.find(METRIC_NAME.text, METRIC_NAME.key)
        cdef Span cluster = self.labels.value_of(self.prepared.partition)
        self.received += 1
        if label == NULL or label.value.size == 0 or cluster.size == 0:
            raise GIVE_UP
        if self.cluster is not None and not is_same(cluster, span_of(self.cluster)):
            raise GIVE_UP
        self.metric = label.value
        if not is_same(self.metric, self.named_metric):
            self.named_metric = self.metric
            self.named = self.prepared.rules.find(self.metric)
        if self.prepared.rules.allow(self.labels, self.metric, self.named):
            return True
        self.dropped += 1
        if self.examples.wants(self.metric):
            self.examples.add(self.labels)
        return False

    cdef bint put_labels(self, Span series, Py_ssize_t rest_size) except -1:
        """Begin to put a series: its labels, with room for the rest; not if it is a duplicate."""
        cdef Output output = self.output
        cdef Py_ssize_t start = output.size
        cdef Py_ssize_t size
        cdef Span key
        self.labels.put_apart(self.prepared.apart)
        size = self.labels.size()
        self.check_room(size + rest_size)
        output.reserve(size + rest_size + 32)
        output.put_byte(0x0A)
        output.put_number(<uint64_t>(size + rest_size))
        key.start = output.data + output.size
        key.size = size
        self.labels.put(output)
        if self.is_duplicate(key, series):
            self.wasted += output.size - start
            output.size = start
            self.duplicates += 1
            return False
        self.series += 1
        return True

    cdef int check_room(self, Py_ssize_t more) except -1:
        if more > self.limit - self.output.size - self.tail.size - self.wasted:
            raise GIVE_UP
        return 0

    cdef bint is_duplicate(self, Span key, Span series) except -1:
        """Return whether the upstream would find a series in conflict with an earlier one.

        Args:
            key: the labels that it goes on with, as they lie in the output.
            series: the series as it came.
        """
        cdef uint32_t hash = hash_of(key)
        cdef int64_t at = self.seen.find(self.output.data, key, hash)
        cdef Py_ssize_t start = self.elided_labels.size
        cdef Py_ssize_t size
        cdef Earlier one
        cdef Earlier* first
        cdef bint is_same_series
        self.put_elided()
        size = self.elided_labels.size - start
        if at < 0:
            one.series = series
            one.elided = start
            one.elided_size = size
            one.is_noted = False
            self.earlier.reserve(sizeof(Earlier))
            self.seen.add(key.start - self.output.data, key.size, hash)
            self.earlier.put(<const uint8_t*>&one, sizeof(Earlier))
            return False
        first = &(<Earlier*>self.earlier.data)[at]
        is_same_series = first.elided_size == size and (
            memcmp(self.elided_labels.data + first.elided, self.elided_labels.data + start, size)
            == 0
        )
        self.elided_labels.size = start
        if not is_same_series:
            return True
        if not first.is_noted:
            self.note_stamps(at, first.series)
            first.is_noted = True
        return not self.note_stamps(at, series)

    cdef int put_elided(self) except -1:
        cdef Label* label
        cdef int i
        for i in range(self.labels.apart_count):
            label = self.labels.apart[i]
            self.elided_labels.reserve(label.whole.size)
            put_label(self.elided_labels, label.name, label.value)
        return 0

    cdef bint note_stamps(self, int64_t number, Span series) except -1:
        """Remember when a series has samples; whether that is news, or it has none at all."""
        cdef bint is_first = self.version == 1
        cdef bint is_news = False
        cdef bint is_empty = True
        cdef const uint8_t* end = series.start + series.size
        cdef const uint8_t* p = series.start
        cdef Span field
        cdef int64_t stamp
        while find_field(&p, end, 0x12, &field):
            is_empty = False
            stamp = number_in(field, &SAMPLE_1 if is_first else &SAMPLE_2, 2)
            is_news = self.note_stamp(number, stamp) or is_news
        p = series.start
        while find_field(&p, end, 0x22 if is_first else 0x1A, &field):
            is_empty = False
            stamp = number_in(field, &HISTOGRAM_1 if is_first else &HISTOGRAM_2, 15)
            is_news = self.note_stamp(number, stamp) or is_news
        return is_news or is_empty

    cdef bint note_stamp(self, int64_t number, int64_t at) except -1:
        """Remember a timestamp; whether it is news."""
        cdef Stamp stamp
        cdef Span text
        cdef uint32_t hash
        if self.stamps is None:
            self.stamps = Table()
            self.stamp_texts = Output(64 * sizeof(Stamp))
        stamp.series = number
        stamp.stamp = at
        text.start = <const uint8_t*>&stamp
        text.size = sizeof(Stamp)
        hash = hash_of(text)
        if self.stamps.find(self.stamp_texts.data, text, hash) >= 0:
            return False
        self.stamp_texts.reserve(text.size)
        self.stamps.add(self.stamp_texts.size, text.size, hash)
        self.stamp_texts.put(text.start, text.size)
        return True


cdef Span family_of(Span name, uint64_t kind) noexcept:
    """The name of the family that a series with one number belongs to, as `_family_name`."""
    cdef bint is_gauge = kind == GAUGE_HISTOGRAM
    if kind == HISTOGRAM or is_gauge:
        if cut(&name, b"_bucket", 7):
            return name
        if is_gauge and (cut(&name, b"_gcount", 7) or cut(&name, b"_gsum", 5)):
            return name
    if kind == HISTOGRAM or is_gauge or kind == SUMMARY:
        if not cut(&name, b"_count", 6):
            cut(&name, b"_sum", 4)
    return name


cdef inline bint cut(Span* name, const char* suffix, Py_ssize_t size) noexcept:
    """Cut a suffix off, unless that is all."""
    if name.size <= size or memcmp(name.start + name.size - size, suffix, size) != 0:
        return False
    name.size -= size
    return True


cdef inline Py_ssize_t sample_size(Span sample, Shape* shape) except -1:
    """Return how much of a sample passes: all, if it has value and timestamp and nothing else."""
    cdef const uint8_t* p = sample.start
    cdef const uint8_t* end = p + sample.size
    cdef uint64_t value
    cdef uint64_t stamp
    if sample.size >= 11 and p[0] == 0x09 and p[9] == 0x10:
        memcpy(&value, p + 1, 8)
        p += 10
        read_number(&p, end, &stamp)
        if p == end and value != 0 and stamp != 0:
            return sample.size
    return size_of(sample, shape)


cdef bint find_field(const uint8_t** at, const uint8_t* end, uint8_t wanted, Span* field) except -1:
    """Find the next field with that tag in a series that was looked through before."""
    cdef uint8_t tag
    while at[0] < end:
        tag = at[0][0]
        if tag <= 0x2A and tag & 7 == 2:
            at[0] += 1
            read_span(at, end, field)
            if tag == wanted:
                return True
        else:
            skip_unknown(at, end, 4)
    return False


cdef Span references_of(Span exemplar) except *:
    """The references of a 2.0 exemplar."""
    cdef const uint8_t* p = exemplar.start
    cdef const uint8_t* end = p + exemplar.size
    cdef Field field
    if p < end:
        read_field(&p, end, &EXEMPLAR_2, 0, &field)
        if field.number == 1:
            return field.data
    return NOTHING


def sift(bytes body, Prepared prepared, bytes cluster, int version):
    """Sift a request.

    Args:
        body: the decompressed request.
        prepared: what is demanded of its series, and done with them.
        cluster: the value that the partition label must have; None: any.
        version: 1 for `prometheus.WriteRequest`, 2 for `io.prometheus.write.v2.Request`.

    Returns:
        A `Written`, its payload a 1.0 request. None: this is not the usual case. A number: neither
        is this series, and those before it pass; the first is 0.
    """
    # 1.0 cannot grow, 2.0 mostly does: a text stands there only once.
    room = len(body) * version + 64
    cdef Sifting run = Sifting(prepared, cluster, version, room)
    try:
        run.run(body)
    except GiveUp:
        return run.begun - 1 if run.is_inside else None
    return Written(
        payload=run.output.take(),
        received=run.received,
        series=run.series,
        dropped=run.dropped,
        duplicates=run.duplicates,
        samples=run.samples,
        histograms=run.histograms,
        exemplars=run.exemplars,
        only_metadata=run.only_metadata,
        dropped_examples=tuple(run.examples.found),
        is_empty=run.is_empty,
    )
