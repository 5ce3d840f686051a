# cython: language_level=3
# C types of outbox.py. Names and meanings are there.

cimport cython

cdef class Opened:
    cdef public object number
    cdef public object delta_head
    cdef public object reader
    cdef public object generation
    cdef public object message
    cdef public object finished
    cdef public object task
