//! telemetryx
fn main() {}
