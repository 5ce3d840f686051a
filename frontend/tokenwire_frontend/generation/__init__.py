"""One generation's life: admission, start, attempts at workers, readers, record."""
