//! The harness of the black-box tests: finds the binary, starts processes, waits for events.
