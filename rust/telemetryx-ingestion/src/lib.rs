//! TelemetryX.
