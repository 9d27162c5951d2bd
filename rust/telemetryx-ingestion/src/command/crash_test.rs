//! crash_test
