//! `journal inspect`: segments, routes' positions and books, damage known so far.

use std::process::ExitCode;

use indicatif::{BinaryBytes, HumanCount};
use serde_json::{Value, json};
use telemetryx_common::Timestamp;
use telemetryx_journal::{CursorInfo, JournalView, SegmentInfo};

use super::super::operator::{Align, DataDir, Failure, Table, print, terminal_width};
use crate::route::{self, Books};

/// Everything that is shown, as text or JSON.
struct Found {
    path: String,
    service: Option<u32>,
    id: Option<u128>,
    start: u64,
    end: u64,
    bytes: u64,
    segments: Vec<SegmentInfo>,
    routes: Vec<RouteFound>,
    damage: Vec<String>,
}

struct RouteFound {
    name: String,
    position: Result<Position, String>,
}

struct Position {
    offset: u64,
    lag: u64,
    bytes_behind: u64,
    books: Option<Books>,
    state_bytes: usize,
}

pub(super) fn run(dir: &DataDir, as_json: bool) -> Result<ExitCode, Failure> {
    let view = dir.journal()?;
    let cursors = view.cursors()?;
    let found = look(dir, &view, cursors);
    let mut text = if as_json {
        found.json().to_string()
    } else {
        found.text()
    };
    if as_json {
        text.push('\n');
    }
    print(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn look(dir: &DataDir, view: &JournalView, cursors: Vec<CursorInfo>) -> Found {
    let segments = view.segments();
    let routes = cursors
        .into_iter()
        .map(|cursor| {
            let position = cursor.position.map(|offset| {
                // The routes of a running service go on while we look: a position may be newer than the end.
                let lag = view.end().get().saturating_sub(offset.get());
                // What follows the last event is the mark that the journal was closed.
                let bytes_behind = match lag {
                    0 => 0,
                    _ => view.end_bytes().saturating_sub(cursor.bytes),
                };
                Position {
                    offset: offset.get(),
                    lag,
                    bytes_behind,
                    books: route::saved_books(&cursor.state),
                    state_bytes: cursor.state.len(),
                }
            });
            RouteFound {
                name: cursor.name,
                position,
            }
        })
        .collect();
    Found {
        path: dir.journal_path().display().to_string(),
        service: dir.service(),
        id: view.id(),
        start: view.start().get(),
        end: view.end().get(),
        bytes: segments.iter().map(|segment| segment.bytes).sum(),
        segments,
        routes,
        damage: view.damage().iter().map(ToString::to_string).collect(),
    }
}

impl Found {
    fn text(&self) -> String {
        let id = self
            .id
            .map_or_else(|| "unknown".to_owned(), |id| format!("{id:032x}"));
        let service = match self.service {
            Some(pid) => format!("in use by process {pid}"),
            None => "not in use".to_owned(),
        };
        format!(
            "Journal {id} in {} ({service})\nEvents {} up to {}: {} in {}\n\n{}\n{}\n{}",
            self.path,
            self.start,
            self.end,
            HumanCount(self.end - self.start),
            BinaryBytes(self.bytes),
            self.segments_text(),
            self.routes_text(),
            self.damage_text(),
        )
    }

    fn segments_text(&self) -> String {
        use Align::{Left, Right};
        let mut table = Table::new([
            ("SEGMENT", Left),
            ("FIRST", Right),
            ("END", Right),
            ("EVENTS", Right),
            ("BYTES", Right),
            ("BEGUN", Left),
            ("STATE", Left),
        ]);
        for segment in &self.segments {
            table.push([
                segment.name.clone(),
                segment.base.to_string(),
                segment.end.to_string(),
                HumanCount(segment.end.since(segment.base)).to_string(),
                BinaryBytes(segment.bytes).to_string(),
                begun(segment),
                state(segment).to_owned(),
            ]);
        }
        table.render(terminal_width())
    }

    fn routes_text(&self) -> String {
        use Align::{Left, Right};
        if self.routes.is_empty() {
            return "No route has a position.\n".to_owned();
        }
        let mut table = Table::new([
            ("ROUTE", Left),
            ("POSITION", Right),
            ("LAG", Right),
            ("BEHIND", Right),
            ("DELIVERED", Right),
            ("FILTERED", Right),
            ("DEAD", Right),
            ("EXPIRED", Right),
            ("STATE", Right),
        ]);
        let mut damaged = String::new();
        for route in &self.routes {
            let unknown = || "?".to_owned();
            match &route.position {
                Ok(position) => {
                    let book = |of: fn(Books) -> u64| {
                        position.books.map_or_else(
                            || "-".to_owned(),
                            |books| HumanCount(of(books)).to_string(),
                        )
                    };
                    table.push([
                        route.name.clone(),
                        position.offset.to_string(),
                        HumanCount(position.lag).to_string(),
                        BinaryBytes(position.bytes_behind).to_string(),
                        book(|books| books.delivered),
                        book(|books| books.filtered),
                        book(|books| books.dead),
                        book(|books| books.expired),
                        BinaryBytes(position.state_bytes as u64).to_string(),
                    ]);
                }
                Err(files) => {
                    let mut row = std::array::from_fn(|_| unknown());
                    row[0].clone_from(&route.name);
                    table.push(row);
                    damaged.push_str(&format!(
                        "DAMAGED: the position of route {}: {files}\n",
                        route.name
                    ));
                }
            }
        }
        table.render(terminal_width()) + &damaged
    }

    fn damage_text(&self) -> String {
        let lines: String = self
            .damage
            .iter()
            .map(|place| format!("DAMAGED: {place}\n"))
            .collect();
        if lines.is_empty() {
            "No damage seen; `telemetryx journal verify` reads everything.\n".to_owned()
        } else {
            lines
        }
    }

    fn json(&self) -> Value {
        let segments: Vec<_> = self
            .segments
            .iter()
            .map(|segment| {
                json!({
                    "name": segment.name,
                    "first": segment.base.get(),
                    "end": segment.end.get(),
                    "events": segment.end.since(segment.base),
                    "bytes": segment.bytes,
                    "begun": begun(segment),
                    "sealed": segment.sealed,
                })
            })
            .collect();
        let routes: serde_json::Map<_, _> = self
            .routes
            .iter()
            .map(|route| {
                let entry = match &route.position {
                    Ok(position) => json!({
                        "position": position.offset,
                        "lag_events": position.lag,
                        "lag_bytes": position.bytes_behind,
                        "books": position.books,
                        "state_bytes": position.state_bytes,
                    }),
                    Err(files) => json!({ "damaged": files }),
                };
                (route.name.clone(), entry)
            })
            .collect();
        json!({
            "id": self.id.map(|id| format!("{id:032x}")),
            "path": self.path,
            "process": self.service,
            "start": self.start,
            "end": self.end,
            "bytes": self.bytes,
            "segments": segments,
            "routes": routes,
            "damage": self.damage,
        })
    }
}

fn begun(segment: &SegmentInfo) -> String {
    Timestamp::from_unix_nanos(segment.created_at / 1_000_000 * 1_000_000).to_string()
}

fn state(segment: &SegmentInfo) -> &'static str {
    if segment.sealed { "sealed" } else { "open" }
}
