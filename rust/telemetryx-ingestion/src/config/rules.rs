//! What must hold between settings, once each of them is right on its own.

use std::{collections::BTreeSet, fs, io::Read as _, path::Path};

use super::{
    Config, JournalEngine, Role, STATS, STORE,
    error::ConfigError,
    routes::RouteConfig,
    tls::TlsConfig,
    values::{RouteName, Secret},
};
use crate::{
    processors,
    sinks::{self, Emitter, Sink, SinkContext},
};

/// How much of a file with secrets is read.
const SECRET_FILE_BYTES_MAX: u64 = 64 << 10;
/// Ten years.
const REFILL_SECONDS_MAX: f64 = 10.0 * 365.25 * 86_400.0;

/// Builds what the settings mean together and says which of them contradict each other. A list in `damaged` lost
/// elements that were wrong on their own: nothing can be said about what it lacks.
pub(super) fn settle(config: &mut Config, damaged: &BTreeSet<String>) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    limits(config, &mut errors);
    if !damaged.contains("roles") {
        roles(config, &mut errors);
    }
    ports(config, &mut errors);
    if !damaged.contains("auth.keys") {
        keys(config, &mut errors);
        openness(config, &mut errors);
    }
    for (key, tls) in config.tls_sections() {
        certificates(key, tls, &mut errors);
    }
    if !damaged.contains("routes") {
        routes(config, &mut errors);
        queries(config, &mut errors);
    }
    token(config, &mut errors);
    super::journal_kafka::settle(config, &mut errors);
    super::journal_postgres::settle(config, &mut errors);
    super::webhook_rules::settle(config, &mut errors);
    errors
}

pub(super) fn wrong(
    errors: &mut Vec<ConfigError>,
    key: impl Into<String>,
    message: String,
    hint: impl Into<String>,
) {
    errors.push(ConfigError {
        origin: None,
        key: key.into(),
        message,
        hint: Some(hint.into()),
    });
}

fn roles(config: &Config, errors: &mut Vec<ConfigError>) {
    if config.roles.is_empty() {
        let message = "is empty: the process would do nothing".to_owned();
        return wrong(errors, "roles", message, "name at least one");
    }
    let alone = config.journal.engine == JournalEngine::Embedded;
    let needed = [Role::Ingest, Role::Deliver];
    if let Some(missing) = needed.into_iter().find(|role| !config.has(*role))
        && alone
    {
        let message = format!(
            "`{}` is missing, and no other process can use the journal of this one",
            missing.as_str()
        );
        let hint = "with journal.engine: embedded, one process takes in and delivers";
        wrong(errors, "roles", message, hint);
    }
}

fn limits(config: &Config, errors: &mut Vec<ConfigError>) {
    let (http, budget) = (&config.http, config.admission.memory_budget);
    if http.max_event > http.max_body {
        let message = format!(
            "{} is more than http.max_body, {}",
            http.max_event, http.max_body
        );
        wrong(
            errors,
            "http.max_event",
            message,
            "an event cannot be larger than its body",
        );
    }
    if budget < http.max_body {
        let message = format!("{budget} is less than http.max_body, {}", http.max_body);
        wrong(
            errors,
            "admission.memory_budget",
            message,
            "the largest body must fit into it",
        );
    }
    let limit = &config.admission.rate_limit;
    rate(
        errors,
        "admission.rate_limit.burst".to_owned(),
        limit.rps,
        limit.burst,
    );
}

/// Times are kept in nanoseconds: those of a bucket that takes centuries to refill would overflow.
fn rate(errors: &mut Vec<ConfigError>, key: String, rps: f64, burst: u32) {
    if f64::from(burst) / rps > REFILL_SECONDS_MAX {
        let message = format!("{burst} at {rps} a second take more than ten years to refill");
        wrong(errors, key, message, "raise rps or lower burst");
    }
}

fn ports(config: &Config, errors: &mut Vec<ConfigError>) {
    let otlp = &config.otlp;
    if !otlp.enabled {
        return;
    }
    let ports = [
        ("http.port", config.http.port),
        ("otlp.http_port", otlp.http_port),
        ("otlp.grpc_port", otlp.grpc_port),
    ];
    for (index, (key, port)) in ports.iter().enumerate() {
        let before = ports.iter().take(index);
        if let Some((first, _)) = before
            .clone()
            .find(|(_, other)| *port != 0 && other == port)
        {
            let message = format!("{port} is {first} already");
            wrong(errors, *key, message, "give each listener its own port");
        }
    }
}

fn keys(config: &Config, errors: &mut Vec<ConfigError>) {
    for (index, key) in config.auth.keys.iter().enumerate() {
        match (key.rps, key.burst) {
            (Some(rps), _) => rate(
                errors,
                format!("auth.keys[{index}].burst"),
                rps,
                key.burst(),
            ),
            (None, Some(_)) => wrong(
                errors,
                format!("auth.keys[{index}].burst"),
                "there is no rps beside it, so nothing would be limited".to_owned(),
                "set rps as well",
            ),
            (None, None) => {}
        }
        let before = config.auth.keys.iter().take(index);
        if let Some(first) = before.clone().position(|other| other.name == key.name) {
            let message = format!("`{}` is the name of auth.keys[{first}] already", key.name);
            wrong(
                errors,
                format!("auth.keys[{index}].name"),
                message,
                "give each key its own name",
            );
        }
        if let Some(first) = before.clone().position(|other| other.sha256 == key.sha256) {
            let message = format!("is the key of auth.keys[{first}] already");
            wrong(
                errors,
                format!("auth.keys[{index}].sha256"),
                message,
                "give each client its own key",
            );
        }
    }
}

/// Whoever may send without showing anything must be on this machine.
fn openness(config: &Config, errors: &mut Vec<ConfigError>) {
    if !config.auth.keys.is_empty() || config.auth.allow_open || !config.has(Role::Ingest) {
        return;
    }
    for (key, host, tls) in config.doors() {
        if !host.to_canonical().is_loopback() && tls.client_ca_file.is_none() {
            let message =
                format!("{host} is reachable from other machines, and nobody is asked for a key");
            let hint = "set auth.keys, or http.tls with a client_ca_file, or auth.allow_open: true if everybody may \
                        send; or listen on 127.0.0.1";
            wrong(errors, key, message, hint);
        }
    }
}

/// A certificate and its key come together; client certificates need both. The files themselves are read elsewhere.
fn certificates(key: &str, tls: &TlsConfig, errors: &mut Vec<ConfigError>) {
    let missing = match (&tls.cert_file, &tls.key_file) {
        (Some(_), None) => "key_file",
        (None, Some(_)) => "cert_file",
        (None, None) if tls.client_ca_file.is_some() => "cert_file",
        _ => return,
    };
    let message = "is missing".to_owned();
    let hint = "TLS takes cert_file and key_file";
    wrong(errors, format!("{key}.{missing}"), message, hint);
}

fn routes(config: &Config, errors: &mut Vec<ConfigError>) {
    for (index, route) in config.routes.iter().enumerate() {
        let path = format!("routes[{index}]");
        // Names are file names too, and some file systems do not tell `Store` from `store`.
        let same = |other: &RouteConfig| {
            other
                .name
                .as_str()
                .eq_ignore_ascii_case(route.name.as_str())
        };
        if let Some(first) = config.routes.iter().take(index).position(same) {
            let message = format!("`{}` is the name of routes[{first}] already", route.name);
            wrong(
                errors,
                format!("{path}.name"),
                message,
                "give each route its own name",
            );
        }
        if route.retry.max < route.retry.initial {
            let message = format!(
                "{} is less than retry.initial, {}",
                route.retry.max, route.retry.initial
            );
            wrong(
                errors,
                format!("{path}.retry.max"),
                message,
                "delays grow from initial to max",
            );
        }
    }
}

fn queries(config: &mut Config, errors: &mut Vec<ConfigError>) {
    let Config {
        query,
        routes,
        processing,
        data_dir,
        ..
    } = config;
    // Of one that cannot be made, building it says what is wrong.
    let sink = |route: &RouteConfig, able: fn(&dyn Sink) -> bool| {
        let context = SinkContext {
            route: route.name.as_str(),
            data_dir,
            emitter: &Emitter::default(),
        };
        sinks::build(&route.sink, context).map_or(true, |sink| able(&*sink))
    };
    let stores = |route: &RouteConfig| sink(route, |sink| sink.events().is_some());
    let counts = |route: &RouteConfig| {
        let mut plugins = processing.plugins.iter().chain(&route.processors);
        sink(route, |sink| sink.counters().is_some())
            || plugins.any(|plugin| {
                processors::build(plugin).map_or(true, |made| made.counters().is_some())
            })
    };
    query_target(
        "query.events_from",
        &mut query.events_from,
        STORE,
        stores,
        "a sink that keeps events",
        routes,
        errors,
    );
    query_target(
        "query.counters_from",
        &mut query.counters_from,
        STATS,
        counts,
        "a sink or a processor that counts",
        routes,
        errors,
    );
}

/// What was not said becomes the route of the usual name if there is one that can answer.
fn query_target(
    key: &str,
    target: &mut Option<RouteName>,
    usual: &str,
    answers: impl Fn(&RouteConfig) -> bool,
    needed: &str,
    routes: &[RouteConfig],
    errors: &mut Vec<ConfigError>,
) {
    let Some(name) = target else {
        let usual = routes
            .iter()
            .filter(|route| answers(route))
            .find(|route| route.name == usual);
        *target = usual.map(|route| route.name.clone());
        return;
    };
    let able = routes
        .iter()
        .filter(|route| answers(route))
        .map(|route| format!("`{}`", route.name));
    let able = able.collect::<Vec<_>>().join(", ");
    let hint = if able.is_empty() {
        format!("no route has {needed}: leave it out")
    } else {
        format!("routes that can answer: {able}")
    };
    match routes.iter().find(|route| route.name == *name) {
        None => wrong(errors, key, format!("there is no route `{name}`"), hint),
        Some(route) if !answers(route) => {
            let message = format!(
                "route `{name}`, whose sink is `{}`, cannot answer",
                route.sink.kind
            );
            wrong(errors, key, message, hint);
        }
        Some(_) => {}
    }
}

fn token(config: &mut Config, errors: &mut Vec<ConfigError>) {
    let admin = &mut config.admin;
    let key = match &admin.token_file {
        Some(_) if admin.token.is_some() => {
            let message = "admin.token is set as well".to_owned();
            return wrong(
                errors,
                "admin.token_file",
                message,
                "leave one of the two out",
            );
        }
        Some(file) => match read_token(file) {
            Ok(token) => {
                admin.token = Some(token);
                "admin.token_file"
            }
            Err(message) => {
                let hint = "name a file that holds nothing but the token";
                return wrong(errors, "admin.token_file", message, hint);
            }
        },
        None => "admin.token",
    };
    let sendable = |token: &Secret| token.expose().bytes().all(|byte| byte.is_ascii_graphic());
    if !admin.token.as_ref().is_none_or(sendable) {
        let message = "the token has blanks or characters that a header cannot carry".to_owned();
        wrong(
            errors,
            key,
            message,
            "use letters, digits and punctuation of ASCII",
        );
    }
}

fn read_token(file: &Path) -> Result<Secret, String> {
    read_small(file)?
        .trim()
        .parse()
        .map_err(|error| format!("`{}` holds no token: {error}", file.display()))
}

/// The text of a file with secrets.
pub(super) fn read_small(file: &Path) -> Result<String, String> {
    let mut text = String::new();
    fs::File::open(file)
        .and_then(|file| file.take(SECRET_FILE_BYTES_MAX).read_to_string(&mut text))
        .map_err(|error| format!("`{}` cannot be read: {}", file.display(), plain(&error)))?;
    Ok(text)
}

/// The system's words without its error number.
pub(super) fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_lowercase(),
        None => text,
    }
}
