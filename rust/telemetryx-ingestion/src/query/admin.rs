//! What an operator may change: replays and dead letters. The same as `telemetryx replay` and `telemetryx dead-letters`
//! do, for those who have no shell on the machine.
//!
//! | request | what it does |
//! | --- | --- |
//! | `GET /dead-letters[?route=][&stage=][&before=][&limit=]` | lists, newest first |
//! | `GET /dead-letters/{id}` | one of them, with its event |
//! | `POST /dead-letters/redrive[?route=][&stage=][&id=]` | sends them again |
//! | `POST /replays` with `{"route":…,"from":…,"to":…}` | delivers again; offsets or times; with several partitions `"P:OFFSET"` or times |
//! | `GET /replays/{id}` | how far it is |

use std::collections::HashMap;

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::Query;
use super::events::parse_time;
use crate::control::{ControlError, LetterFilter, Moment, Part, letters, partitions, replays};
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
            let asked = Handle::current().block_on(of.control.ask_redrive(filter));
            Ok(json!({ "redriving": asked.map_err(unavailable)? }))
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
            let asked = of.control.ask_replay(&request.route, parts.clone());
            let id = Handle::current().block_on(asked).map_err(unavailable)?;
            let mut answer = json!({ "id": id, "route": request.route });
            match parts.as_slice() {
                [part] => {
                    if part.partition != 0 {
                        answer["partition"] = part.partition.into();
                    }
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
    let from = moment("from", &request.from)?;
    let to = request.to.as_ref().map(|to| moment("to", to)).transpose()?;
    let meant = partitions(of.journal.extents(), from, to).map_err(invalid)?;
    let is_one = meant.len() == 1;
    let parts = meant.into_iter().map(|Extent { partition, end, .. }| {
        let offset = |moment| runtime.block_on(offset(of, partition, moment));
        let first = offset(from)?;
        let behind = to.map_or(Ok(end), offset)?;
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
    let mut parts: Vec<_> = parts.collect::<Result<_, _>>()?;
    if parts.iter().any(|part| !part.is_empty()) {
        parts.retain(|part| !part.is_empty());
    } else {
        parts.truncate(1);
    }
    Ok(parts)
}

fn moment(name: &str, value: &Value) -> Result<Moment, Refusal> {
    let text = value.as_str();
    let moment = value.as_u64().map(Moment::Offset);
    let moment = moment.or_else(|| text.and_then(parse_time).map(Moment::Time));
    moment
        .or_else(|| text.and_then(|text| text.parse().ok()))
        .ok_or_else(|| {
            invalid(format!(
                "`{name}` must be an offset (a number), an RFC 3339 time, or PARTITION:OFFSET (strings)"
            ))
        })
}

/// The offset that is meant in a partition.
async fn offset(of: &Query, partition: u32, moment: Moment) -> Result<u64, Refusal> {
    match moment {
        Moment::Offset(offset) | Moment::InPartition(_, offset) => Ok(offset),
        Moment::Time(time) => {
            let offset = of.journal.offset_at(partition, time).await;
            offset.map_err(|error| Refusal::Unavailable(error.to_string()))
        }
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
