# cython: language_level=3
# C types of fast_path.py. Names and meanings are there.

cimport cython

cdef class TokenQuota:
    cdef public long long left

cdef class Cursor:
    cdef public Py_ssize_t token
    cdef public Py_ssize_t text
    cdef public bint ended

cdef class Columns:
    cdef public object ids
    cdef public object cut
    cdef public bytearray text
    cdef public Py_ssize_t base_text
    cdef public bint is_plain
    cdef public Py_ssize_t certain
    cdef object _add_id
    cdef object _add_cut

    cpdef append_one(self, token_id, bytes raw)
    @cython.locals(token=Py_ssize_t, text=Py_ssize_t, base=Py_ssize_t, whole=Py_ssize_t, count=Py_ssize_t)
    cpdef plain(self, Cursor cursor, Py_ssize_t max_bytes)

cdef class Listener:
    cdef public bint listens
    cdef public bint at_once
    cdef public object on_news

cdef class Outlet(Listener):
    cdef public Columns _columns
    cdef public Cursor _cursor
    cdef public object _part
    cdef public object _deltas
    cdef public Py_ssize_t _untrimmed_bytes

    @cython.locals(columns=Columns)
    cpdef take_plain(self, Py_ssize_t max_bytes)

cdef class Inbox:
    cdef public list told
    cdef object _on_first

    cpdef add(self, told)

cdef class Inlet:
    cdef public double came_s
    cdef public object fault
    cdef TokenQuota _quota
    cdef object _decoder
    cdef Columns _columns
    cdef Listener _listener
    cdef public object output_tokens
    cdef object _on_stop
    cdef object _unseen_ids
    cdef list _texts
    cdef bint _closed
    cdef Py_ssize_t _opened
    cdef Py_ssize_t _room

    @cython.locals(taken=Py_ssize_t)
    cpdef Py_ssize_t open(self) except -1
    @cython.locals(quota=TokenQuota, texts=list, listener=Listener)
    cpdef bint take(self, token_id, double came_s) except -1
    @cython.locals(stopped=bint)
    cdef bint _decode(self, token_id) except -1

@cython.locals(place=Py_ssize_t, tokens=Py_ssize_t, inlet=Inlet)
cpdef list take_tokens(dict inlets, list handles, list token_ids, double came_s)
