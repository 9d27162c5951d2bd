//! Settings from environment variables.
//!
//! `TELEMETRYX_HTTP__PORT=8081` is `http.port`; `TELEMETRON_` is read in the same way. Elements of a list go by index or
//! by name: `TELEMETRYX_ROUTES__STORE__BATCH__MAX_EVENTS`; a list of words may be said at once: `TELEMETRYX_ROLES=ingest,query`. Beside them stand the names that services before this one had.

use std::sync::Arc;

use super::{
    Config,
    error::ConfigError,
    shape::{SETTINGS, Shape},
    tree::{Content, Node, Place, parse_yaml},
};

/// Prefixes of our own variables, the stronger one last.
const PREFIXES: [&str; 2] = ["TELEMETRON_", "TELEMETRYX_"];

/// What a name of an earlier service sets here.
struct Inherited {
    name: &'static str,
    /// `*` stands for every element of a list.
    path: &'static [&'static str],
    read: fn(&str) -> String,
}

/// The names of earlier services. Each also works with `OTEL_` before it.
const INHERITED: [Inherited; 9] = [
    Inherited {
        name: "ENABLE_RATE_LIMITING",
        path: &["admission", "rate_limit", "enabled"],
        read: switch,
    },
    Inherited {
        name: "RATE_LIMIT_RPS",
        path: &["admission", "rate_limit", "rps"],
        read: as_it_stands,
    },
    Inherited {
        name: "RATE_LIMIT_BURST",
        path: &["admission", "rate_limit", "burst"],
        read: as_it_stands,
    },
    Inherited {
        name: "STAGING_MAX_BACKLOG",
        path: &["admission", "overflow", "max_backlog_events"],
        read: as_it_stands,
    },
    Inherited {
        name: "OVERFLOW_POLICY",
        path: &["admission", "overflow", "policy"],
        read: str::to_lowercase,
    },
    Inherited {
        name: "OVERFLOW_SAMPLE_RATE",
        path: &["admission", "overflow", "sample_rate"],
        read: as_it_stands,
    },
    Inherited {
        name: "PROCESSING_QUEUE_MAX_DEPTH",
        path: &["processing", "queue_max_depth"],
        read: as_it_stands,
    },
    Inherited {
        name: "BATCH_MAX_SIZE",
        path: &["routes", "*", "batch", "max_events"],
        read: as_it_stands,
    },
    Inherited {
        name: "BATCH_FLUSH_INTERVAL_MS",
        path: &["routes", "*", "batch", "flush_interval"],
        read: milliseconds,
    },
];

/// What an earlier service that kept its events in PostgreSQL had where nobody said anything: most events in a batch, and how
/// long one waits for more.
const STAGED_BATCH: [(&str, &str); 2] = [("max_events", "25"), ("flush_interval", "200ms")];

/// Where the earlier `processor.batch_size` of a file or variable goes.
const BATCH_SIZE: &[&str] = &["routes", "*", "batch", "max_events"];

fn as_it_stands(text: &str) -> String {
    text.to_owned()
}

fn switch(text: &str) -> String {
    match text.to_lowercase().as_str() {
        "1" | "yes" | "on" | "y" | "t" => "true".to_owned(),
        "0" | "no" | "off" | "n" | "f" => "false".to_owned(),
        other => other.to_owned(),
    }
}

fn milliseconds(text: &str) -> String {
    format!("{text}ms")
}

/// The variables of this process. Text that is not UTF-8 is kept as far as it is.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().map(|(name, value)| {
        (
            name.to_string_lossy().into_owned(),
            value.to_string_lossy().into_owned(),
        )
    })
}

/// Puts what the variables say over what the file said.
pub(super) fn apply(
    said: &mut Node,
    env: impl Iterator<Item = (String, String)>,
    errors: &mut Vec<ConfigError>,
) {
    let mut variables: Vec<(String, String)> = env
        .map(|(name, value)| (name, value.trim().to_owned()))
        .filter(|(_, value)| !value.is_empty())
        .collect();
    // `…_HTTP` stands before `…_HTTP__PORT`, whatever order the system gives them in.
    variables.sort();
    for prefix in ["", "OTEL_"] {
        for inherited in &INHERITED {
            let named =
                |(name, _): &&(String, String)| name.strip_prefix(prefix) == Some(inherited.name);
            if let Some((name, value)) = variables.iter().find(named) {
                let path: Vec<String> = inherited
                    .path
                    .iter()
                    .map(|&segment| segment.to_owned())
                    .collect();
                Assignment::new(name, path, &(inherited.read)(value)).apply(said, errors);
            }
        }
    }
    for prefix in PREFIXES {
        for (name, value) in &variables {
            let Some(rest) = name.strip_prefix(prefix).filter(|rest| !rest.is_empty()) else {
                continue;
            };
            if is_orchestrators(rest, value) || is_tests(rest) {
                continue;
            }
            let mut path: Vec<String> =
                rest.to_lowercase().split("__").map(str::to_owned).collect();
            if path == ["processor", "batch_size"] {
                path = BATCH_SIZE
                    .iter()
                    .map(|&segment| segment.to_owned())
                    .collect();
            }
            Assignment::new(name, path, value).apply(said, errors);
        }
    }
}

/// Moves a file's earlier `processor.batch_size` to every route that does not say its own.
pub(super) fn adopt_batch_size(said: &mut Node) {
    let Some(size) = said
        .get("processor")
        .and_then(|processor| processor.get("batch_size"))
        .cloned()
    else {
        return;
    };
    said.entry("processor", &Place::BuiltIn)
        .remove("batch_size");
    if said.get("processor").is_some_and(Node::says_nothing) {
        said.remove("processor");
    }
    for route in routes(said) {
        let batch = route.entry("batch", &size.place);
        if batch.get("max_events").is_none() {
            *batch.entry("max_events", &size.place) = size.clone();
        }
    }
}

/// With the journal in PostgreSQL, what neither file nor variables say is as it was with an earlier service that kept its
/// events there. (Of its other defaults, those that are built in are the same.)
pub(super) fn adopt_staging_defaults(said: &mut Node) {
    let at = |node: &Node, path: &[&str]| {
        let found = path.iter().try_fold(node, |node, key| node.get(key));
        found.cloned()
    };
    let engine = at(said, &["journal", "engine"]).map(|engine| engine.content);
    if !matches!(engine, Some(Content::Text(name)) if name == "postgres") {
        return;
    }
    // What was said and is no table is a mistake that is told of.
    let may_grow = |node: Option<&Node>| {
        node.is_none_or(|node| matches!(node.content, Content::Table(_) | Content::Null))
    };
    let place = Place::BuiltIn;
    let overflow = at(said, &["admission", "overflow"]);
    if may_grow(said.get("admission"))
        && may_grow(overflow.as_ref())
        && overflow.is_none_or(|overflow| overflow.get("max_backlog_events").is_none())
    {
        let built_in = || Node::from_json(&Config::default().journal.postgres.max_backlog.into());
        let backlog = at(said, &["journal", "postgres", "max_backlog"]).unwrap_or_else(built_in);
        let overflow = said.entry("admission", &place).entry("overflow", &place);
        *overflow.entry("max_backlog_events", &place) = backlog;
    }
    for route in routes(said) {
        if !matches!(route.content, Content::Table(_)) || !may_grow(route.get("batch")) {
            continue;
        }
        let batch = route.entry("batch", &place);
        for (key, value) in STAGED_BATCH {
            if batch.get(key).is_none()
                && let Ok(value) = parse_yaml(value)
            {
                *batch.entry(key, &place) = value.placed(&place);
            }
        }
    }
}

/// Kubernetes tells a container about services: one called `telemetryx` makes `TELEMETRYX_SERVICE_HOST`,
/// `TELEMETRYX_PORT=tcp://…`, `TELEMETRYX_PORT_8080_TCP_ADDR` and more. They are no settings of ours.
fn is_orchestrators(rest: &str, value: &str) -> bool {
    let is_port = |after: &str| {
        after.split_once('_').is_some_and(|(number, protocol)| {
            let known = ["TCP", "UDP", "SCTP"];
            number.parse::<u16>().is_ok() && known.iter().any(|known| protocol.starts_with(known))
        })
    };
    !rest.contains("__")
        && (rest.ends_with("SERVICE_HOST")
            || rest.contains("SERVICE_PORT")
            || rest.ends_with("PORT") && value.contains("://")
            || rest.split("PORT_").skip(1).any(is_port))
}

/// Switches of this project's own tests, which the processes that they start inherit.
fn is_tests(rest: &str) -> bool {
    rest == "BLESS" || rest.starts_with("TEST_")
}

/// One variable and the key that it sets.
struct Assignment<'a> {
    path: Vec<String>,
    value: &'a str,
    place: Place,
    name: &'a str,
}

impl<'a> Assignment<'a> {
    fn new(name: &'a str, path: Vec<String>, value: &'a str) -> Self {
        Self {
            path,
            value,
            place: Place::Variable(Arc::from(name)),
            name,
        }
    }

    fn apply(&self, said: &mut Node, errors: &mut Vec<ConfigError>) {
        if self.path.len() > 1 && self.path.first().is_some_and(|first| first == "routes") {
            routes(said);
        }
        if let Err(message) = self.set(said, Some(&SETTINGS), &self.path) {
            errors.push(ConfigError {
                origin: Some(self.name.to_owned()),
                key: self.path.join("."),
                message,
                hint: None,
            });
        }
    }

    fn set(&self, node: &mut Node, shape: Option<&Shape>, path: &[String]) -> Result<(), String> {
        let Some((segment, rest)) = path.split_first() else {
            match self.read(shape) {
                Ok(said) => node.overlay(said),
                Err(message) => {
                    // What was made on the way here goes again: one mistake is enough.
                    if node.says_nothing() {
                        node.content = Content::Null;
                    }
                    return Err(message);
                }
            }
            return Ok(());
        };
        if matches!(shape, Some(Shape::List(_))) && node.says_nothing() {
            node.content = Content::List(Vec::new());
        }
        if let (Content::List(items), Some(Shape::List(shape))) = (&mut node.content, shape) {
            if segment == "*" {
                return items
                    .iter_mut()
                    .try_for_each(|item| self.set(item, Some(shape), rest));
            }
            if segment.parse() == Ok(items.len()) {
                items.push(Node::new(Content::Table(Vec::new()), self.place.clone()));
            }
            let count = items.len();
            let item = element(items, segment).ok_or_else(|| {
                format!(
                    "there is no element `{segment}` among the {count}; write its index or its name"
                )
            })?;
            return self.set(item, Some(shape), rest);
        }
        let shape = shape.and_then(|shape| shape.under(segment));
        self.set(node.entry(segment, &self.place), shape, rest)
    }

    fn read(&self, shape: Option<&Shape>) -> Result<Node, String> {
        if shape.is_some_and(Shape::is_text) {
            return Ok(Node::new(
                Content::Text(self.value.to_owned()),
                self.place.clone(),
            ));
        }
        match parse_yaml(self.value) {
            Ok(node) => Ok(listed(node, shape).placed(&self.place)),
            Err(error) => Err(format!("is not a value: {}", error.message)),
        }
    }
}

/// Where a list is wanted, words between commas are one: `ingest,query`.
fn listed(mut node: Node, shape: Option<&Shape>) -> Node {
    if let (Content::Text(words), Some(Shape::List(_))) = (&node.content, shape) {
        let words = words
            .split(',')
            .map(|word| Content::Text(word.trim().to_owned()));
        let place = Place::BuiltIn;
        node.content = Content::List(words.map(|word| Node::new(word, place.clone())).collect());
    }
    node
}

/// The element of that index, or with that `name`.
fn element<'a>(items: &'a mut [Node], segment: &str) -> Option<&'a mut Node> {
    if let Ok(index) = segment.parse::<usize>() {
        return items.get_mut(index);
    }
    items.iter_mut().find(|item| {
        matches!(item.get("name").map(|name| &name.content), Some(Content::Text(name)) if name.to_lowercase() == segment)
    })
}

/// The routes that were said, or the built-in ones, now said.
fn routes(said: &mut Node) -> &mut [Node] {
    if said.get("routes").is_none() {
        let built_in = serde_json::to_value(Config::default().routes).unwrap_or_default();
        *said.entry("routes", &Place::BuiltIn) = Node::from_json(&built_in);
    }
    match &mut said.entry("routes", &Place::BuiltIn).content {
        Content::List(routes) => routes,
        _ => &mut [],
    }
}
