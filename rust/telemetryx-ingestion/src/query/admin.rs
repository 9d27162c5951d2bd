//! What an operator may change: replays and dead letters. The same as `telemetryx replay` and `telemetryx dead-letters`
//! do on the control file, for those who have no shell on the machine.
//!
//! | request | what it does |
//! | --- | --- |
//! | `GET /dead-letters[?route=][&stage=][&before=][&limit=]` | lists, newest first |
//! | `GET /dead-letters/{id}` | one of them, with its event |
//! | `POST /dead-letters/redrive[?route=][&stage=][&id=]` | sends them again |
//! | `POST /replays` with `{"route":…,"from":…,"to":…}` | delivers again; offsets or times |
//! | `GET /replays/{id}` | how far it is |

use std::collections::HashMap;

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::Query;
use super::events::parse_time;
use crate::control::{ControlError, LetterFilter, Part, letters, replays};
use crate::intake::Refusal;
use crate::journal::Extent;
use crate::route::RouteHandle;

/// Letters listed at a time, at the most.
const LIMIT_MAX: u32 = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplayRequest {
    route: String,
    from: Value,
    to: Option<Value>,
}

/// Answers one admin request.
///
/// # Errors
/// [`Refusal`].
pub fn answer(
    of: &Query,
    method: &Method,
    path: &str,
    parameters: &HashMap<String, String>,
    body: &[u8],
) -> Result<Value, Refusal> {
    let db = of.control.reader().map_err(unavailable)?;
    let sqlite = |error: rusqlite::Error| Refusal::Unavailable(error.to_string());
    let filter = filter(parameters)?;
    match (
        method,
        path.trim_start_matches('/')
            .split('/')
            .collect::<Vec<_>>()
            .as_slice(),
    ) {
        (&Method::GET, ["dead-letters"]) => {
            let before = number(parameters, "before")?;
            let limit = number(parameters, "limit")?
                .unwrap_or(100)
                .clamp(1, LIMIT_MAX.into());
            let list = letters::list(
                &db,
                &filter,
                before,
                u32::try_from(limit).unwrap_or(LIMIT_MAX),
            )
            .map_err(sqlite)?;
            Ok(
                json!({ "count": letters::count(&db, &filter).map_err(sqlite)?, "dead_letters": list }),
            )
        }
        (&Method::GET, ["dead-letters", id]) => {
            let filter = LetterFilter {
                id: Some(parse_id(id)?),
                ..LetterFilter::default()
            };
            let letter = letters::list(&db, &filter, None, 1).map_err(sqlite)?.pop();
            let letter =
                letter.ok_or_else(|| Refusal::NotFound(format!("there is no dead letter {id}")))?;
            let mut shown = json!(letter);
            shown["event"] = letter.event();
            Ok(shown)
        }
        (&Method::POST, ["dead-letters", "redrive"]) => {
            let selects = ["route", "stage", "id", "all"];
            if !selects.iter().any(|name| parameters.contains_key(*name)) {
                let message = "say which: `?route=`, `?stage=`, `?id=`, or `?all=true`";
                return Err(invalid(message.into()));
            }
            Ok(json!({ "redriving": letters::ask_redrive(&db, &filter).map_err(sqlite)? }))
        }
        (&Method::POST, ["replays"]) => {
            let request: ReplayRequest =
                serde_json::from_slice(body).map_err(|error| Refusal::BadRequest {
                    code: "invalid_json",
                    message: format!("send {{\"route\":…,\"from\":…,\"to\":…}}: {error}"),
                })?;
            let named = |route: &&RouteHandle| route.name() == request.route;
            let route = of.routes.iter().find(named).ok_or_else(|| {
                Refusal::NotFound(format!("there is no route `{}`", request.route))
            })?;
            if let Some(why) = route.refuses_replay() {
                let message = format!("route `{}` takes no replay: {why}", request.route);
                return Err(invalid(message));
            }
            let parts = parts(of, &request)?;
            let id = replays::ask(&db, &request.route, &parts).map_err(sqlite)?;
            let mut answer = json!({ "id": id, "route": request.route });
            match parts.as_slice() {
                [part] => {
                    answer["first"] = part.first.into();
                    answer["behind"] = part.behind.into();
                }
                parts => answer["parts"] = json!(parts),
            }
            Ok(answer)
        }
        (&Method::GET, ["replays", id]) => match replays::get(&db, parse_id(id)?) {
            Ok(replay) => Ok(replay.to_json()),
            Err(rusqlite::Error::QueryReturnedNoRows) => {
                Err(Refusal::NotFound(format!("there is no replay {id}")))
            }
            Err(error) => Err(sqlite(error)),
        },
        (_, ["dead-letters", "redrive"] | ["replays"]) => Err(Refusal::MethodNotAllowed("POST")),
        (_, ["dead-letters"] | ["dead-letters" | "replays", _]) => {
            Err(Refusal::MethodNotAllowed("GET"))
        }
        _ => Err(Refusal::NotFound(format!("there is nothing at `{path}`"))),
    }
}

fn invalid(message: String) -> Refusal {
    Refusal::BadRequest {
        code: "invalid_parameter",
        message,
    }
}

/// Which events of each partition are meant.
fn parts(of: &Query, request: &ReplayRequest) -> Result<Vec<Part>, Refusal> {
    let runtime = Handle::current();
    // What other processes accepted a moment ago is meant too.
    let seen = runtime.block_on(of.journal.refresh());
    seen.map_err(|error| Refusal::Unavailable(error.to_string()))?;
    let extents = of.journal.extents();
    let is_one = extents.len() == 1;
    let parts = extents.into_iter().map(|Extent { partition, end, .. }| {
        let offset = |name, value| runtime.block_on(offset(of, name, value, partition, is_one));
        let first = offset("from", &request.from)?;
        let behind = request.to.as_ref();
        let behind = behind.map_or(Ok(end), |to| offset("to", to))?;
        if is_one && first > behind.min(end) {
            let message = format!(
                "`from` ({first}) must not lie behind `to` ({behind}) or the end of the journal ({end})"
            );
            return Err(invalid(message));
        }
        Ok(Part {
            partition,
            first,
            behind: behind.max(first),
        })
    });
    parts.collect()
}

/// An offset, or the first event of the partition accepted at or after a time.
async fn offset(
    of: &Query,
    name: &str,
    value: &Value,
    partition: u32,
    is_only: bool,
) -> Result<u64, Refusal> {
    match (value.as_u64(), value.as_str().and_then(parse_time)) {
        (Some(offset), _) if is_only => Ok(offset),
        (Some(_), _) => Err(invalid(format!(
            "`{name}` must be an RFC 3339 time (a string): the journal has several partitions, each with offsets of its own"
        ))),
        (None, Some(time)) => {
            let offset = of.journal.offset_at(partition, time).await;
            offset.map_err(|error| Refusal::Unavailable(error.to_string()))
        }
        (None, None) => Err(invalid(format!(
            "`{name}` must be an offset (a number) or an RFC 3339 time (a string)"
        ))),
    }
}

fn filter(parameters: &HashMap<String, String>) -> Result<LetterFilter, Refusal> {
    let text = |name: &str| parameters.get(name).cloned();
    Ok(LetterFilter {
        route: text("route"),
        stage: text("stage"),
        id: number(parameters, "id")?,
    })
}

fn number(parameters: &HashMap<String, String>, name: &str) -> Result<Option<i64>, Refusal> {
    parameters.get(name).map(|text| parse_id(text)).transpose()
}

fn parse_id(text: &str) -> Result<i64, Refusal> {
    text.parse().map_err(|_| Refusal::BadRequest {
        code: "invalid_parameter",
        message: format!("`{text}` is not a number"),
    })
}

fn unavailable(error: ControlError) -> Refusal {
    Refusal::Unavailable(error.to_string())
}
