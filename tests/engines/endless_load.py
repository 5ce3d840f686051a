"""An engine's process that never gets through loading its model: run as a module."""

import signal

if __name__ == "__main__":
    signal.pause()
