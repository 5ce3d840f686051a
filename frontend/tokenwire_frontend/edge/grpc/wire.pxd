# cython: language_level=3
# C types of wire.py. Names and meanings are there.

cimport cython

cdef unsigned char _EVENTS_TAG
cdef unsigned char _STREAM_DELTA_TAG
cdef unsigned char _TOKEN_OFFSET
cdef unsigned char _TOKEN_IDS
cdef unsigned char _TEXT
cdef unsigned char _TEXT_OFFSET
cdef unsigned char _SECONDS
cdef unsigned char _NANOS

@cython.locals(packed=Py_ssize_t, out=bytearray)
cpdef bytes stream_delta(tuple plain)

@cython.locals(packed=Py_ssize_t, size=Py_ssize_t)
cpdef put_session_delta(bytearray out, bytes head, tuple plain)

@cython.locals(token_offset=Py_ssize_t, text_offset=Py_ssize_t, token_id=cython.ulonglong)
cdef _put_delta(bytearray out, tuple plain, Py_ssize_t packed)

@cython.locals(token_offset=Py_ssize_t, text_offset=Py_ssize_t, size=Py_ssize_t, lengths=Py_ssize_t)
cdef Py_ssize_t _delta_size(tuple plain, Py_ssize_t packed) except -1

@cython.locals(packed=Py_ssize_t, token_id=cython.ulonglong)
cdef Py_ssize_t _ids_size(tuple plain) except -1

cdef int _put_number(bytearray out, unsigned long long number) except -1

@cython.locals(size=Py_ssize_t)
cdef Py_ssize_t _number_size(unsigned long long number) noexcept

@cython.locals(nanos=cython.ulonglong, body=bytearray)
cdef _duration(bytes tag, double seconds)
