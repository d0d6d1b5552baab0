"""What every test needs."""

from __future__ import annotations

import signal

# a shell's background job is born deaf to Ctrl-C, and so would be every launch that a test interrupts
signal.signal(signal.SIGINT, signal.default_int_handler)
