//! What engineers run and production never ships: conformance, demo, chaos, testbed
