//! What `telemetryx check` says of the sink's keys.

use super::super::{SinkContext, construct};

#[test]
fn settings_that_cannot_work_are_named() {
    let construct = |settings: &str| {
        let context = SinkContext {
            route: "r",
            data_dir: std::path::Path::new("."),
            emitter: &crate::sinks::Emitter::default(),
        };
        let made = construct(toml::from_str(settings).unwrap(), context);
        made.map(|_| ()).map_err(|error| error.to_string())
    };
    for (settings, words) in [
        ("", "missing field `url`"),
        ("url = 'http://h/b'", "`url`: it must be s3://"),
        ("url = 's3:///x'", "`url`: it must be s3://"),
        ("url = 'file://host/x'", "`url`: it must be s3://"),
        ("url = 's3://me:secret@b/x'", "belongs under `options`"),
        ("url = 's3://b/x?sig=1'", "belongs under `options`"),
        (
            "url = 's3://b'\noptions = { regio = 'eu' }",
            "`options.regio`: the store has no such option (did you mean `region`?)",
        ),
        (
            "url = 's3://b'\noptions = { region = [] }",
            "`options.region`: it must be",
        ),
        (
            "url = 's3://b'\noptions = { timeout = '1s' }",
            "`options.timeout`: connections are",
        ),
        (
            "url = 'file:///x'\noptions = { region = 'eu' }",
            "`options.region`: the store has no such option",
        ),
        ("url = 'file:///x'\ntls = {}", "`tls` is set"),
        (
            "url = 's3://b'\ntls = {}\noptions = { endpoint = 'http://h' }",
            "`tls` is set",
        ),
        (
            "url = 's3://b'\ntls = { ca_file = '/no/such' }",
            "`tls.ca_file`",
        ),
        (
            "url = 's3://b'\noptions = { secret_access_key_file = '/no/such' }",
            "`options.secret_access_key_file`",
        ),
        (
            "url = 's3://b'\noptions = { token = 'x', token_file = '/etc/hostname' }",
            "both set",
        ),
        ("url = 's3://b'\nroll = { bytes = '1KiB' }", "`roll.bytes`"),
        ("url = 's3://b'\nroll = { age = '1ms' }", "`roll.age`"),
        (
            "url = 's3://b'\nroll = { size = '1MiB' }",
            "unknown field `size`",
        ),
        ("url = 's3://b'\ntimeout = '0s'", "`timeout`"),
    ] {
        let told = construct(settings).unwrap_err();
        assert!(told.contains(words), "{settings}: {told}");
    }
    for settings in [
        "url = 'file:///not/there/yet'",
        "url = 's3://b/c'\noptions = { endpoint = 'http://h:1', access_key_id = 'a', secret_access_key = 'b' }",
        "url = 's3://b'\noptions = { endpoint = 'http://h:1', virtual_hosted_style_request = false }",
        "url = 'gs://b/c'\noptions = { base_url = 'http://h:1', skip_signature = true }",
        "url = 'az://c/d'\noptions = { account_name = 'a', access_key = 'YQ==', endpoint = 'http://h:1/a' }",
    ] {
        let made = construct(settings);
        assert_eq!(made, Ok(()), "{settings}");
    }
}
