//! Reading a config never panics, and each mistake keeps to its line, whatever the file holds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use telemetryx_ingestion::config::{Config, Language};

fuzz_target!(|file: &[u8]| {
    let Ok(text) = std::str::from_utf8(file) else { return };
    for language in [Language::Yaml, Language::Toml] {
        if let Err(errors) = Config::from_text(text, language) {
            assert!(errors.0.iter().all(|error| !error.to_string().contains('\n')));
        }
    }
});
