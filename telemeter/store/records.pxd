# Types for records.py where there is a C compiler.
cimport cython

@cython.locals(tag=cython.int, end=cython.Py_ssize_t, size=cython.Py_ssize_t)
cpdef tuple read_series(bytes payload, Py_ssize_t at, Py_ssize_t most)

@cython.locals(
    tag=cython.int, labels=cython.Py_ssize_t, labels_end=cython.Py_ssize_t,
    start=cython.Py_ssize_t, size=cython.Py_ssize_t, name=bytes, before=bytes, tail=bytes,
    message=bytes, sample=bytes,
)
cdef object _read_one(bytes data, Py_ssize_t at, Py_ssize_t end)

@cython.locals(size=cython.Py_ssize_t, at=cython.Py_ssize_t)
cdef bytes _value_of(bytes label)

@cython.locals(at=cython.Py_ssize_t, end=cython.Py_ssize_t, tag=cython.int, value=bytes)
cdef tuple _read_sample(bytes message)

@cython.locals(size=cython.Py_ssize_t, byte=cython.Py_ssize_t, shift=cython.int)
cpdef (Py_ssize_t, Py_ssize_t) read_size(bytes data, Py_ssize_t at, Py_ssize_t end)

cpdef bint is_stale(bytes tail)

@cython.locals(parts=list, name=bytes, labels=bytes, tail=bytes)
cpdef bytes pack(object records)

@cython.locals(
    at=cython.Py_ssize_t, end=cython.Py_ssize_t, size=cython.Py_ssize_t, behind=cython.Py_ssize_t
)
cpdef list unpack(bytes segment)

@cython.locals(size=cython.Py_ssize_t)
cpdef (Py_ssize_t, Py_ssize_t) read_size_of_sample(bytes segment, Py_ssize_t at, Py_ssize_t end)

@cython.locals(at=cython.Py_ssize_t, end=cython.Py_ssize_t, size=cython.Py_ssize_t)
cpdef tuple first_key(bytes segment)

@cython.locals(at=cython.Py_ssize_t, size=cython.Py_ssize_t)
cpdef bytes first_name(bytes segment)

@cython.locals(
    at=cython.Py_ssize_t, end=cython.Py_ssize_t, size=cython.Py_ssize_t, name=bytes, last=bytes,
    found=list,
)
cpdef list names(bytes segment)

@cython.locals(at=cython.Py_ssize_t, end=cython.Py_ssize_t, size=cython.Py_ssize_t)
cpdef object name_after(bytes segment, bytes name)

@cython.locals(
    at=cython.Py_ssize_t, end=cython.Py_ssize_t, size=cython.Py_ssize_t, start=cython.Py_ssize_t,
    behind=cython.Py_ssize_t, other=bytes,
)
cpdef (Py_ssize_t, Py_ssize_t, Py_ssize_t) locate(bytes segment, bytes name, bytes labels)

@cython.locals(at=cython.Py_ssize_t, end=cython.Py_ssize_t, size=cython.Py_ssize_t)
cpdef Py_ssize_t count(bytes segment)

@cython.locals(
    at=cython.Py_ssize_t, end=cython.Py_ssize_t, size=cython.Py_ssize_t, start=cython.Py_ssize_t,
    stop=cython.Py_ssize_t, other=bytes, whole=bytes, found=list, labels=list,
)
cpdef tuple choose(bytes segment, bytes name, bytes after, object passes)

@cython.locals(start=cython.Py_ssize_t, size=cython.Py_ssize_t, labels=list)
cpdef list split_labels(bytes segment, Py_ssize_t at, Py_ssize_t end)
