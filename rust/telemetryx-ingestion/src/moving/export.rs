//! From a journal into a file. Nobody may write to the journal meanwhile: where a lock cannot see to that, it is looked at again.

use std::io::Write;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use telemetryx_common::Timestamp;

use super::contents::{
    End, EventsHead, Group as GroupFrame, Header, Letter, Missing, Partition, Route, RouteState,
};
use super::format::{FileWriter, Kind};
use super::letters::{Lettered, Letters};
use super::order::{Group, groups};
use super::reading::{PIECE_BYTES, Piece, SegmentReader};
use super::{MoveError, refused};
use crate::clock;
use crate::journal::{Committed, Extent, Journal, Slice};
use crate::observe::DoorSaved;
use crate::route::Saved;

/// How often it is looked whether the journal moves.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Most events of a frame.
const FRAME_EVENTS: u32 = 4096;

/// What is exported.
pub(crate) struct Source<'s> {
    pub(crate) journal: &'s dyn Journal,
    /// Where dead letters can be asked for.
    pub(crate) letters: &'s Connection,
    /// The routes of the config.
    pub(crate) routes: Vec<Route>,
    /// What the doors turned away.
    pub(crate) door: DoorSaved,
    /// Since when the books are kept.
    pub(crate) since: Timestamp,
    /// Leave out what every route has passed.
    pub(crate) only_undelivered: bool,
    /// Of a route that did not end in order, sinks may take some twice.
    pub(crate) accept_doubles: bool,
}

/// What was exported.
#[derive(Debug)]
pub(crate) struct Exported {
    pub(crate) end: End,
    /// Routes with a position.
    pub(crate) routes: usize,
    pub(crate) bytes: u64,
}

/// What others would change.
#[derive(Debug)]
struct Look {
    extents: Vec<Extent>,
    /// Of each route.
    committed: Vec<Vec<Committed>>,
}

impl Look {
    async fn at(journal: &dyn Journal, routes: &[Route]) -> Result<Self, MoveError> {
        journal.refresh().await?;
        let status = journal.status();
        if status.state == "unhealthy" {
            let reason = status.reason.unwrap_or_default();
            return refused(format!("the journal is not available: {reason}"));
        }
        let mut committed = Vec::with_capacity(routes.len());
        for route in routes {
            committed.push(journal.saved(&route.name).await?);
        }
        Ok(Self {
            extents: journal.extents(),
            committed,
        })
    }

    fn extent(&self, partition: u32) -> Option<&Extent> {
        self.extents.iter().find(|it| it.partition == partition)
    }

    /// Where a route is: at the oldest event where it has not committed.
    fn position(&self, route: usize, partition: u32) -> u64 {
        let start = self.extent(partition).map_or(0, |extent| extent.start);
        let mut commits = self.committed.get(route).into_iter().flatten();
        let committed = commits.find(|it| it.partition == partition);
        committed.map_or(start, |it| it.position.max(start))
    }

    /// Says who has moved since.
    fn compare(&self, routes: &[Route], now: &Self) -> Result<(), MoveError> {
        // What retention removes meanwhile is missing from the file, and it says so.
        let moved = now.extents.iter().find_map(|now| {
            let before = self.extent(now.partition).map_or(0, |before| before.end);
            let (partition, end) = (now.partition, now.end);
            (before != end).then(|| {
                format!("partition {partition} went from {before} to {end}: events are accepted")
            })
        });
        let committed = || {
            let pairs = self.committed.iter().zip(&now.committed);
            let mut moved = pairs.zip(routes).filter(|((before, now), _)| before != now);
            moved.next().map(|(_, route)| {
                format!("the position of route `{}` changed: it is read", route.name)
            })
        };
        let Some(what) = moved.or_else(committed) else {
            return Ok(());
        };
        refused(format!(
            "the journal moved while it was exported ({what}). Stop every process that uses it, those with the role \
             `ingest` and those with the role `deliver`, and export again"
        ))
    }
}

/// Writes the journal into a file; `progress` is told how many events are written, of how many.
///
/// # Errors
/// [`MoveError`]; the file is not whole then, and says so itself.
pub(crate) async fn export<W: Write>(
    source: Source<'_>,
    file: FileWriter<W>,
    progress: impl FnMut(u64, u64),
) -> Result<(Exported, W), MoveError> {
    let Source {
        journal,
        letters,
        routes,
        door,
        since,
        only_undelivered,
        accept_doubles,
    } = source;
    let look = Look::at(journal, &routes).await?;
    // One without a position begins at the oldest event, there as here.
    let has_position = |(_, committed): &(Route, Vec<Committed>)| !committed.is_empty();
    let (routes, committed): (Vec<_>, Vec<_>) = std::iter::zip(routes, look.committed)
        .filter(has_position)
        .unzip();
    let look = Look {
        extents: look.extents,
        committed,
    };
    if routes.is_empty() && look.extents.iter().all(|extent| extent.end == 0) {
        return refused("there is nothing in the journal, and no route has a position in it");
    }
    let header = Header {
        written_at: clock::now().to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        engine: journal.status().engine.to_owned(),
        identity: format!("{:032x}", journal.identity()),
        partitions: look.extents.iter().map(Partition::of).collect(),
        routes: routes.clone(),
        door,
        since: since.to_string(),
    };
    let states = read_states(&routes, &look.committed)?;
    if !accept_doubles {
        check_rest(&routes, &states, &look)?;
    }
    let lettered = routes.iter().map(|route| {
        let states = states.iter().filter(|it| it.route == route.name);
        Lettered {
            name: route.name.clone(),
            positions: states
                .clone()
                .map(|it| (it.partition, it.position))
                .collect(),
            redriven: states.flat_map(|it| it.saved.redriven.clone()).collect(),
        }
    });
    let letters = Letters::new(letters, lettered.collect());
    let mut groups = groups(&look.extents, routes.len(), |route, partition| {
        look.position(route, partition)
    });
    let mut left_out = Vec::new();
    if only_undelivered && !routes.is_empty() {
        groups.retain(|group| {
            let is_wanted = group.passed_by.len() < routes.len();
            if !is_wanted {
                left_out.extend_from_slice(&group.segments);
            }
            is_wanted
        });
    }
    let mut exporter = Exporter {
        file,
        letters,
        pending: None,
        end: End::default(),
        progress,
        total: groups.iter().map(Group::events).sum(),
        looked: Instant::now(),
    };
    exporter.json(Kind::Header, &header)?;
    for state in &states {
        exporter.json(Kind::Route, state)?;
    }
    // Events that are not in the file, but letters of theirs may be.
    for extent in &look.extents {
        exporter.letters_without_events(extent.partition, 0, extent.start)?;
    }
    for segment in &left_out {
        exporter.letters_without_events(segment.partition, segment.from, segment.to)?;
    }
    for group in &groups {
        let passed_by = group.passed_by.iter();
        let passed_by = passed_by.filter_map(|route| Some(routes.get(*route)?.name.clone()));
        let passed_by = passed_by.collect();
        exporter.json(Kind::Group, &GroupFrame { passed_by })?;
        exporter.group(journal, group, &routes, &look).await?;
    }
    exporter.other_letters()?;
    let now = Look::at(journal, &routes).await?;
    look.compare(&routes, &now)?;
    let accepted: u64 = look.extents.iter().map(|extent| extent.end).sum();
    exporter.finish(accepted, routes.len())
}

/// What each route saved.
fn read_states(
    routes: &[Route],
    committed: &[Vec<Committed>],
) -> Result<Vec<RouteState>, MoveError> {
    let mut states = Vec::new();
    for (route, committed) in std::iter::zip(routes, committed) {
        for one in committed {
            let Committed {
                partition,
                position,
                state,
            } = one;
            let saved = Saved::read(state, *position).or_else(|error| {
                refused(format!(
                    "what route `{}` saved in partition {partition} cannot be read: {error}",
                    route.name
                ))
            })?;
            states.push(RouteState {
                route: route.name.clone(),
                partition: *partition,
                position: *position,
                saved,
            });
        }
    }
    Ok(states)
}

/// A sink that knows by offset what it has had must have had nothing behind the route's position.
fn check_rest(routes: &[Route], states: &[RouteState], look: &Look) -> Result<(), MoveError> {
    for route in routes.iter().filter(|route| route.remembers_offsets) {
        let mut states = states.iter().filter(|it| it.route == route.name);
        let restless = states.find(|it| {
            let end = look.extent(it.partition).map_or(0, |extent| extent.end);
            !it.saved.rests && it.position < end
        });
        if let Some(restless) = restless {
            return refused(format!(
                "route `{}` did not end in order in partition {}: its sink may have had events behind its position, knows \
                 them by their offsets in this journal, and would take them twice. Start the service once more with \
                 `roles: [deliver]`, let the route pass everything or stop it with SIGTERM while its sink is well, and \
                 export again; or accept that with --accept-doubles",
                route.name, restless.partition
            ));
        }
    }
    Ok(())
}

struct Exporter<'c, W, P> {
    file: FileWriter<W>,
    letters: Letters<'c>,
    /// Events that follow each other, to be one frame.
    pending: Option<(EventsHead, Vec<u8>)>,
    end: End,
    progress: P,
    total: u64,
    looked: Instant,
}

impl<W: Write, P: FnMut(u64, u64)> Exporter<'_, W, P> {
    async fn group(
        &mut self,
        journal: &dyn Journal,
        group: &Group,
        routes: &[Route],
        look: &Look,
    ) -> Result<(), MoveError> {
        let count = group.segments.len();
        let segments = group.segments.iter();
        let mut readers: Vec<_> = segments
            .map(|segment| SegmentReader::new(journal, *segment, count))
            .collect();
        loop {
            // Who waits longest.
            let mut next: Option<(i64, usize)> = None;
            for (place, reader) in readers.iter_mut().enumerate() {
                if let Some(at) = reader.accepted_at().await?
                    && next.is_none_or(|(earliest, _)| at < earliest)
                {
                    next = Some((at, place));
                }
            }
            let Some(reader) = next.and_then(|(_, place)| readers.get_mut(place)) else {
                break;
            };
            let partition = reader.partition();
            if let Some(piece) = reader.take() {
                self.piece(partition, piece)?;
            }
            (self.progress)(self.end.events, self.total);
            if self.looked.elapsed() >= LOOK_EVERY {
                let now = Look::at(journal, routes).await?;
                look.compare(routes, &now)?;
                self.looked = Instant::now();
            }
        }
        self.flush()
    }

    fn piece(&mut self, partition: u32, piece: Piece) -> Result<(), MoveError> {
        let slice = match piece {
            Piece::Events(slice) => slice,
            Piece::Missing { first, events, why } => {
                self.flush()?;
                let missing = Missing {
                    partition,
                    first,
                    events,
                    why,
                };
                self.json(Kind::Missing, &missing)?;
                return self.letters_without_events(partition, first, first + events);
            }
        };
        let end = slice.first + u64::from(slice.events);
        let letters = self.letters.between(partition, slice.first, end)?;
        let mut rest = slice;
        let mut letters = letters.into_iter().peekable();
        while let Some(offset) = letters.peek().and_then(|(letter, _)| letter.offset) {
            // Its event is alone in its frame.
            let passed = offset - rest.first;
            let before = take_first(&mut rest, passed);
            let event = take_first(&mut rest, 1);
            self.events(partition, &before)?;
            self.flush()?;
            self.events(partition, &event)?;
            self.flush()?;
            while let Some((letter, body)) = letters.next_if(|(it, _)| it.offset == Some(offset)) {
                let letter = Letter {
                    here: true,
                    ..letter
                };
                self.letter(&letter, &body)?;
            }
        }
        self.events(partition, &rest)
    }

    /// Adds events to the frame that is being put together.
    fn events(&mut self, partition: u32, slice: &Slice) -> Result<(), MoveError> {
        if slice.events == 0 {
            return Ok(());
        }
        let follows = self.pending.as_ref().is_some_and(|(head, body)| {
            head.partition == partition
                && head.first + u64::from(head.events) == slice.first
                && head.events + slice.events <= FRAME_EVENTS
                && body.len() + slice.body.len() <= PIECE_BYTES
        });
        if !follows {
            self.flush()?;
        }
        let head = EventsHead {
            partition,
            first: slice.first,
            events: 0,
        };
        let (head, body) = self.pending.get_or_insert_with(|| (head, Vec::new()));
        head.events += slice.events;
        body.extend_from_slice(&slice.body);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), MoveError> {
        if let Some((head, body)) = self.pending.take() {
            self.end.events += u64::from(head.events);
            let parts = [&head.to_bytes()[..], &body];
            let written = self.file.frame(Kind::Events, &parts);
            written.map_err(MoveError::Write)?;
        }
        Ok(())
    }

    fn letters_without_events(
        &mut self,
        partition: u32,
        from: u64,
        to: u64,
    ) -> Result<(), MoveError> {
        let (file, count) = (&mut self.file, &mut self.end.letters);
        let mut tell = |letter: Letter, body: Vec<u8>| write_letter(file, count, &letter, &body);
        self.letters.each_between(partition, from, to, &mut tell)
    }

    fn other_letters(&mut self) -> Result<(), MoveError> {
        let (file, count) = (&mut self.file, &mut self.end.letters);
        let mut tell = |letter: Letter, body: Vec<u8>| write_letter(file, count, &letter, &body);
        self.letters.each_without_event(&mut tell)?;
        self.letters.each_of_door(&mut tell)
    }

    fn letter(&mut self, letter: &Letter, body: &[u8]) -> Result<(), MoveError> {
        write_letter(&mut self.file, &mut self.end.letters, letter, body)
    }

    fn json(&mut self, kind: Kind, value: &impl serde::Serialize) -> Result<(), MoveError> {
        self.file.json(kind, value).map_err(MoveError::Write)
    }

    fn finish(mut self, accepted: u64, routes: usize) -> Result<(Exported, W), MoveError> {
        self.end.frames = self.file.frames();
        self.end.missing = accepted - self.end.events;
        let end = self.end;
        self.json(Kind::End, &end)?;
        let exported = Exported {
            end,
            routes,
            bytes: self.file.bytes(),
        };
        let out = self.file.finish().map_err(MoveError::Write)?;
        Ok((exported, out))
    }
}

fn write_letter<W: Write>(
    file: &mut FileWriter<W>,
    count: &mut u64,
    letter: &Letter,
    body: &[u8],
) -> Result<(), MoveError> {
    *count += 1;
    let head = serde_json::to_vec(letter).map_err(|error| MoveError::Write(error.into()))?;
    let written = file.frame(Kind::Letter, &[&head, b"\n", body]);
    written.map_err(MoveError::Write)
}

/// Takes the first events out of a slice, whose bytes are known to be events.
fn take_first(slice: &mut Slice, events: u64) -> Slice {
    let events = u32::try_from(events).unwrap_or(u32::MAX).min(slice.events);
    let length = match events {
        0 => 0,
        _ => telemetryx_common::wire::first_part(&slice.body, events as usize, usize::MAX).1,
    };
    let taken = Slice {
        first: slice.first,
        events,
        body: slice.body.split_to(length),
    };
    slice.first += u64::from(events);
    slice.events -= events;
    taken
}
