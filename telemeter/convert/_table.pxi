# A table of byte strings, for telling quickly whether one came before.

import os

from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from libc.string cimport memset

cdef extern from *:
    """
    static inline uint64_t telemeter_mix(uint64_t one, uint64_t other) {
        unsigned __int128 product = (unsigned __int128)one * other;
        return (uint64_t)product ^ (uint64_t)(product >> 64);
    }
    """
    uint64_t mix "telemeter_mix"(uint64_t one, uint64_t other) noexcept

#: Nobody outside of the process knows them, so nobody can make up strings that collide.
cdef uint64_t[4] SECRETS
memcpy(SECRETS, PyBytes_AS_STRING(os.urandom(32)), 32)


cdef inline uint32_t hash_of(Span text) noexcept:
    """A keyed hash: a product of two words, folded, for each 16 bytes."""
    cdef const uint8_t* p = text.start
    cdef Py_ssize_t left = text.size
    cdef uint64_t secret = SECRETS[2]
    cdef uint64_t another = SECRETS[3]
    cdef uint64_t one = SECRETS[0] ^ <uint64_t>text.size
    cdef uint64_t other = SECRETS[1]
    cdef uint64_t[4] rest
    while left >= 32:
        one = mix(word_at(p) ^ secret, word_at(p + 8) ^ one)
        other = mix(word_at(p + 16) ^ another, word_at(p + 24) ^ other)
        p += 32
        left -= 32
    memset(rest, 0, 32)
    memcpy(rest, p, left)
    one = mix(rest[0] ^ secret, rest[1] ^ one)
    other = mix(rest[2] ^ another, rest[3] ^ other)
    return <uint32_t>(mix(one ^ SECRETS[1], other ^ SECRETS[0]) >> 32)


cdef struct Item:
    uint32_t hash
    uint32_t size
    Py_ssize_t offset


cdef enum:
    FIRST_SLOTS = 64
    MOST_ITEMS = 1 << 27


@cython.final
cdef class Table:
    """Byte strings that lie in some buffer, numbered in the order in which they came.

    The buffer may grow, and so move: it is passed to each call.
    """

    cdef Item* items
    cdef uint32_t* slots  # the number of an item plus one, or 0
    cdef uint32_t count
    cdef uint32_t mask
    cdef uint32_t room

    def __cinit__(self):
        self.mask = FIRST_SLOTS - 1
        self.slots = <uint32_t*>PyMem_Malloc(FIRST_SLOTS * sizeof(uint32_t))
        if self.slots == NULL:
            raise MemoryError
        memset(self.slots, 0, FIRST_SLOTS * sizeof(uint32_t))

    def __dealloc__(self):
        PyMem_Free(self.items)
        PyMem_Free(self.slots)

    cdef inline int64_t find(self, const uint8_t* buffer, Span text, uint32_t hash) noexcept:
        """The number of a string, or -1."""
        cdef uint32_t at = hash & self.mask
        cdef Item* item
        while self.slots[at] != 0:
            item = &self.items[self.slots[at] - 1]
            if (
                item.hash == hash
                and item.size == text.size
                and memcmp(buffer + item.offset, text.start, text.size) == 0
            ):
                return self.slots[at] - 1
            at = (at + 1) & self.mask
        return -1

    cdef inline int add(self, Py_ssize_t offset, Py_ssize_t size, uint32_t hash) except -1:
        """Add a string that is not there."""
        if size > 0x7FFFFFFF or self.count >= MOST_ITEMS:
            raise GIVE_UP
        if self.count == self.room:
            self.grow()
        if self.count * 2 > self.mask:
            self.spread()
        self.items[self.count].hash = hash
        self.items[self.count].size = <uint32_t>size
        self.items[self.count].offset = offset
        self.count += 1
        self.place(self.count)
        return 0

    cdef inline void place(self, uint32_t number) noexcept:
        cdef uint32_t at = self.items[number - 1].hash & self.mask
        while self.slots[at] != 0:
            at = (at + 1) & self.mask
        self.slots[at] = number

    cdef int grow(self) except -1:
        cdef uint32_t room = self.room + self.room // 2 + FIRST_SLOTS
        cdef Item* items = <Item*>PyMem_Realloc(self.items, room * sizeof(Item))
        if items == NULL:
            raise MemoryError
        self.items = items
        self.room = room
        return 0

    cdef int spread(self) except -1:
        """Put the items into twice as many slots."""
        cdef size_t room = (<size_t>self.mask + 1) * 2
        cdef uint32_t* slots = <uint32_t*>PyMem_Malloc(room * sizeof(uint32_t))
        cdef uint32_t number
        if slots == NULL:
            raise MemoryError
        memset(slots, 0, room * sizeof(uint32_t))
        PyMem_Free(self.slots)
        self.slots = slots
        self.mask = <uint32_t>(room - 1)
        for number in range(1, self.count + 1):
            self.place(number)
        return 0
