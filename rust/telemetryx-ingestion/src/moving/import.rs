//! From a file into an empty journal.
//!
//! ```text
//! look ─► read the routes ─► does it fit? does nobody read? ─► events and letters ─► look ─► positions ─► the door's books
//! ```
//!
//! Nothing is written before it is known that all that routes saved fits. What is begun and not ended leaves a journal that is
//! not empty, which the next import refuses.

use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use telemetryx_common::{Event, Timestamp, wire};
use tokio::time::{Instant, sleep, timeout_at};

use super::contents::{End, EventsHead, Group, Header, Letter, Missing, Route, RouteState};
use super::format::{FileError, FileReader, Kind};
use super::letters::Keeping;
use super::placing::{Place, Placed};
use super::{MoveError, refused};
use crate::control::Control;
use crate::journal::{
    Assignment, Assignments, Committed, DeliveryId, EncodedBatch, Journal, JournalError, Position,
    Range,
};
use crate::processors::EventProcessor;
use crate::route::{Books, RouteFilter, Saved};
use crate::sinks::Sink;

/// How long the journal may take to hand out the partitions of a route.
const HANDED_OUT_WAIT_MAX: Duration = Duration::from_secs(60);
/// How often a position is tried to be saved.
const COMMIT_TRIES: u32 = 5;
const COMMIT_PAUSE: Duration = Duration::from_millis(500);

/// Where it goes.
pub(crate) struct Target<'t> {
    pub(crate) journal: &'t dyn Journal,
    pub(crate) control: &'t Control,
    /// The routes of the config.
    pub(crate) routes: Vec<NewRoute>,
}

/// A route of the new config.
pub(crate) struct NewRoute {
    pub(crate) route: Route,
    pub(crate) filter: RouteFilter,
    pub(crate) processors: Vec<(String, Box<dyn EventProcessor>)>,
    pub(crate) sink: Box<dyn Sink>,
}

/// What was imported.
#[derive(Debug)]
pub(crate) struct Imported {
    pub(crate) events: u64,
    /// Accepted by the old journal, and not in the file.
    pub(crate) carried: u64,
    pub(crate) partitions: usize,
    pub(crate) letters: u64,
    pub(crate) routes: Vec<RouteImported>,
    /// What a person should know.
    pub(crate) notes: Vec<String>,
}

/// A route that goes on in the new journal.
#[derive(Debug)]
pub(crate) struct RouteImported {
    pub(crate) name: String,
    pub(crate) pending: u64,
    /// Events that it has had before and will see again.
    pub(crate) again: u64,
    pub(crate) books: Books,
}

/// What is in a frame.
enum Item {
    Header(Box<Header>),
    Route(Box<RouteState>),
    Group(Group),
    Events(EventsHead, Bytes),
    Missing(Missing),
    Letter(Box<Letter>, Vec<u8>),
    End(End),
}

/// A file frame by frame, counted.
struct Items<'f, R> {
    file: &'f mut FileReader<R>,
    seen: End,
    accepted: u64,
}

impl<'f, R: Read> Items<'f, R> {
    fn new(file: &'f mut FileReader<R>) -> Self {
        Self {
            file,
            seen: End::default(),
            accepted: 0,
        }
    }

    /// The first frame.
    fn header(&mut self) -> Result<Box<Header>, FileError> {
        match self.next()? {
            Item::Header(header) => {
                let ends = header.partitions.iter().map(|it| it.end);
                self.accepted = ends.sum();
                Ok(header)
            }
            _ => Err(self.file.senseless("the header should be the first")),
        }
    }

    fn next(&mut self) -> Result<Item, FileError> {
        let frames = self.file.frames();
        let (kind, payload) = self.file.next()?;
        let item = parse(kind, payload).map_err(|why| self.file.senseless(why))?;
        match &item {
            Item::Events(head, _) => self.seen.events += u64::from(head.events),
            Item::Letter(..) => self.seen.letters += 1,
            Item::End(end) => {
                self.seen.frames = frames;
                self.seen.missing = self.accepted.saturating_sub(self.seen.events);
                if *end != self.seen {
                    let why = format!("it says {end:?}, and there were {:?}", self.seen);
                    return Err(self.file.senseless(why));
                }
                self.file.finish()?;
            }
            Item::Header(_) if frames > 0 => {
                return Err(self.file.senseless("there is a second header"));
            }
            _ => {}
        }
        Ok(item)
    }
}

fn parse(kind: Kind, payload: &[u8]) -> Result<Item, String> {
    fn json<'p, T: serde::Deserialize<'p>>(payload: &'p [u8]) -> Result<T, String> {
        serde_json::from_slice(payload).map_err(|error| error.to_string())
    }
    Ok(match kind {
        Kind::Header => Item::Header(Box::new(json(payload)?)),
        Kind::Route => Item::Route(Box::new(json(payload)?)),
        Kind::Group => Item::Group(json(payload)?),
        Kind::Missing => Item::Missing(json(payload)?),
        Kind::Events => {
            let (head, body) = EventsHead::read(payload).ok_or("it is too short")?;
            let events = wire::events(body).filter(Result::is_ok).count();
            if events != head.events as usize || events == 0 {
                return Err(format!(
                    "it says {} events, and there are {events}",
                    head.events
                ));
            }
            Item::Events(head, Bytes::copy_from_slice(body))
        }
        Kind::Letter => {
            let end = payload.iter().position(|byte| *byte == b'\n');
            let (line, body) = end
                .and_then(|end| payload.split_at_checked(end))
                .ok_or("no line")?;
            let body = body.get(1..).unwrap_or_default().to_vec();
            Item::Letter(Box::new(json(line)?), body)
        }
        Kind::End => Item::End(json(payload)?),
    })
}

/// Reads a file to its end and says what is in it; `progress` is told how many bytes are read.
///
/// # Errors
/// [`MoveError::File`]: it is not whole.
pub(crate) fn verify<R: Read>(
    file: &mut FileReader<R>,
    mut progress: impl FnMut(u64),
) -> Result<End, MoveError> {
    let mut items = Items::new(file);
    items.header()?;
    loop {
        let item = items.next()?;
        progress(items.file.bytes());
        if matches!(item, Item::End(_)) {
            return Ok(items.seen);
        }
    }
}

/// Takes a file into an empty journal; `progress` is told how many events are in it by then, of how many at most.
///
/// # Errors
/// [`MoveError`]; if anything was written, the journal is not empty any more.
pub(crate) async fn import<R: Read>(
    target: Target<'_>,
    file: &mut FileReader<R>,
    mut progress: impl FnMut(u64, u64),
) -> Result<Imported, MoveError> {
    let Target {
        journal,
        control,
        routes,
    } = target;
    let partitions = look_empty(journal, control, &routes).await?;
    let mut items = Items::new(file);
    let header = items.header()?;
    let most: u64 = header
        .partitions
        .iter()
        .map(|it| it.end - it.start.min(it.end))
        .sum();
    let mut states = Vec::new();
    let mut item = items.next()?;
    while let Item::Route(state) = item {
        states.push(*state);
        item = items.next()?;
    }
    let mut notes = Vec::new();
    let carrying = carry(&header, states, routes, partitions, &mut notes);
    let mut carrying = carrying?;
    check_sizes(journal, &carrying)?;
    for route in &carrying {
        // Given back at once: what is held would be read ahead as it comes.
        Whole::take(journal, &route.placed.name, partitions).await?;
    }

    let mut appended = Appended::new(journal, partitions);
    let mut letters = Keeping::new(control);
    let mut left_letters = 0;
    // The event of the frame before, if it was alone.
    let mut alone: Option<Range> = None;
    loop {
        let before = alone.take();
        match item {
            Item::End(_) => break,
            Item::Header(_) | Item::Route(_) => {
                return Err(items.file.senseless("it should be at the beginning").into());
            }
            Item::Group(group) => {
                for route in &mut carrying {
                    let passes = group.passed_by.contains(&route.placed.name);
                    route.placed.set_passes(passes);
                }
            }
            Item::Missing(missing) => {
                for route in &mut carrying {
                    route.placed.missing(missing.events);
                }
            }
            Item::Events(head, body) => {
                alone = appended.events(&head, body, &mut carrying).await?;
                progress(items.seen.events, most);
            }
            Item::Letter(letter, body) => {
                let place = match (&letter.route, letter.here) {
                    (None, _) => Some((0, None)),
                    (Some(name), here) => {
                        let mut routes = carrying.iter_mut();
                        let route = routes.find(|it| it.placed.name == *name);
                        match (route, here) {
                            (None, _) => None,
                            (Some(route), false) => Some(route.placed.letter_elsewhere()),
                            (Some(route), true) => {
                                let Some(range) = before else {
                                    let why = "it is a letter of no event";
                                    return Err(items.file.senseless(why).into());
                                };
                                alone = before;
                                let unwanted = appended.was_unwanted(route);
                                route.placed.letter(&range, unwanted)
                            }
                        }
                    }
                };
                match place {
                    Some(place) => letters.keep(*letter, body, place).await?,
                    None => left_letters += 1,
                }
            }
        }
        item = items.next()?;
    }
    letters.flush().await?;
    let events = items.seen.events;
    let carried = items.seen.missing;
    appended.look_whole().await?;
    if left_letters > 0 {
        notes.push(format!(
            "{left_letters} dead letters are not carried: their routes are not in the config, or their events come again"
        ));
    }

    let mut imported = Vec::new();
    for route in carrying {
        let again = route.placed.again();
        let name = route.placed.name.clone();
        let (places, off) = route.placed.finish(carried);
        if off != 0 {
            notes.push(format!(
                "the books of route `{name}` were off by {off} events in the old journal; they are set right"
            ));
        }
        let mut books = Books::default();
        let mut position = 0;
        for place in &places {
            books.add(place.saved.books);
            position += place.position;
        }
        commit(journal, &name, places, route.state).await?;
        imported.push(RouteImported {
            name,
            pending: events - position,
            again,
            books,
        });
    }
    control.save_door(header.door).await?;
    if let Ok(since) = Timestamp::parse(&header.since) {
        control.set_since(since).await?;
    }
    Ok(Imported {
        events,
        carried,
        partitions,
        letters: letters.kept(),
        routes: imported,
        notes,
    })
}

/// Makes sure that nothing was ever in the journal; how many partitions it has.
async fn look_empty(
    journal: &dyn Journal,
    control: &Control,
    routes: &[NewRoute],
) -> Result<usize, MoveError> {
    journal.refresh().await?;
    let status = journal.status();
    if !status.is_ok() {
        let reason = status.reason.unwrap_or_default();
        return refused(format!("the journal is not available: {reason}"));
    }
    let extents = journal.extents();
    if let Some(extent) = extents.iter().find(|extent| extent.end > 0) {
        return Err(MoveError::NotEmpty(format!(
            "partition {} has had {} events",
            extent.partition, extent.end
        )));
    }
    for NewRoute { route, .. } in routes {
        let saved = journal.saved(&route.name).await?;
        let is_begun =
            |committed: &Committed| committed.position > 0 || !committed.state.is_empty();
        if saved.iter().any(is_begun) {
            return Err(MoveError::NotEmpty(format!(
                "route `{}` has a position in it",
                route.name
            )));
        }
    }
    let db = control.reader()?;
    let sql = "SELECT EXISTS (SELECT 1 FROM dead_letters WHERE route IS NOT NULL)";
    if db.query_row(sql, [], |row| row.get(0))? {
        return Err(MoveError::NotEmpty(
            "there are dead letters of a former one".to_owned(),
        ));
    }
    Ok(extents.len())
}

/// A route that is carried over.
struct Carried {
    placed: Placed,
    filter: RouteFilter,
    /// What its plug-ins saved, where that is carried.
    state: (Value, Value),
}

/// Which routes are carried over, and with what.
fn carry(
    header: &Header,
    states: Vec<RouteState>,
    routes: Vec<NewRoute>,
    partitions: usize,
    notes: &mut Vec<String>,
) -> Result<Vec<Carried>, MoveError> {
    let mut by_route = BTreeMap::<String, Vec<RouteState>>::new();
    for state in states {
        by_route.entry(state.route.clone()).or_default().push(state);
    }
    for Route { name, .. } in &header.routes {
        if !routes.iter().any(|new| new.route.name == *name) {
            notes.push(format!(
                "route `{name}` is not in the config: its position, its books and what it knew are not carried"
            ));
        }
    }
    let mut carrying = Vec::new();
    for new in routes {
        let name = new.route.name.clone();
        let old = header.routes.iter().find(|old| old.name == name);
        let (Some(old), Some(states)) = (old, by_route.remove(&name)) else {
            notes.push(format!(
                "route `{name}` had no position: it begins at the oldest event"
            ));
            continue;
        };
        let mut books = Books::default();
        for partition in &header.partitions {
            let mut states = states.iter();
            match states.find(|it| it.partition == partition.partition) {
                Some(state) => {
                    books.add(state.saved.books);
                    // Removed before it came to them.
                    books.expired += partition.start.saturating_sub(state.position);
                }
                None => books.expired += partition.start,
            }
        }
        let state = carry_state(old, &new, states, partitions, notes)?;
        carrying.push(Carried {
            placed: Placed::new(&name, books, partitions),
            filter: new.filter,
            state,
        });
    }
    Ok(carrying)
}

/// What plug-ins saved goes with them from one partition to one partition; else nobody could say which part of it belongs to
/// which.
fn carry_state(
    old: &Route,
    new: &NewRoute,
    states: Vec<RouteState>,
    partitions: usize,
    notes: &mut Vec<String>,
) -> Result<(Value, Value), MoveError> {
    let name = &old.name;
    let has_state = |value: &Value| match value {
        Value::Null => false,
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    };
    let is_one = states.len() == 1 && partitions == 1;
    let same_sink = old.sink == new.route.sink;
    let Some(Saved {
        processors, sink, ..
    }) = states
        .into_iter()
        .map(|it| it.saved)
        .find(|saved| has_state(&saved.processors) || has_state(&saved.sink))
    else {
        if !same_sink {
            notes.push(other_sink(old, new));
        }
        return Ok((Value::Null, Value::Null));
    };
    let sink = if same_sink {
        new.sink.moved(sink)
    } else {
        notes.push(other_sink(old, new));
        Value::Null
    };
    let mut lost: Vec<_> = if is_one {
        Vec::new()
    } else {
        let known = processors.as_object().into_iter().flatten();
        known.map(|(key, _)| key.clone()).collect()
    };
    if !is_one && has_state(&sink) {
        lost.push(format!("the sink `{}`", old.sink));
    }
    if !lost.is_empty() {
        notes.push(format!(
            "what {} of route `{name}` knew is not carried: it cannot be divided among {partitions} partitions, and \
             begins anew at the route's position",
            lost.join(", ")
        ));
    }
    if !is_one {
        return Ok((Value::Null, Value::Null));
    }
    // It must be taken back, or the route would stop at its start.
    for (place, (processor, plugin)) in new.processors.iter().enumerate() {
        let own = processors.get(format!("{place}:{processor}")).cloned();
        plugin.restore(own.unwrap_or_default()).or_else(|error| {
            refused(format!(
                "route `{name}`: processor `{processor}` does not take what it saved: {error}"
            ))
        })?;
    }
    new.sink.restore(sink.clone()).or_else(|error| {
        let kind = &old.sink;
        refused(format!(
            "route `{name}`: the sink `{kind}` does not take what it saved: {error}"
        ))
    })?;
    Ok((processors, sink))
}

fn other_sink(old: &Route, new: &NewRoute) -> String {
    format!(
        "route `{}` had the sink `{}` and has `{}` now: it goes on at its position, so the new sink does not get what came \
         before; give the route another name to deliver all of it",
        old.name, old.sink, new.route.sink
    )
}

/// What is saved must fit, whatever the numbers in it become.
fn check_sizes(journal: &dyn Journal, carrying: &[Carried]) -> Result<(), MoveError> {
    let most = journal.state_bytes_max();
    for route in carrying {
        let (processors, sink) = route.state.clone();
        let largest = Saved {
            books: Books {
                delivered: u64::MAX,
                filtered: u64::MAX,
                dead: u64::MAX,
                expired: u64::MAX,
            },
            carried: u64::MAX,
            rests: true,
            processors,
            sink,
            redriven: Vec::new(),
        };
        let bytes = serde_json::to_vec(&largest).map_or(usize::MAX, |state| state.len());
        if bytes > most {
            return refused(format!(
                "what route `{}` saved takes {bytes} bytes, and {most} can be saved with a position in this journal",
                route.placed.name
            ));
        }
    }
    Ok(())
}

/// What was appended so far.
struct Appended<'j> {
    journal: &'j dyn Journal,
    /// By partition.
    ends: Vec<u64>,
    /// Routes, by name, whose filter leaves out the event that was appended last, alone.
    unwanted_by: Vec<String>,
}

impl<'j> Appended<'j> {
    fn new(journal: &'j dyn Journal, partitions: usize) -> Self {
        Self {
            journal,
            ends: vec![0; partitions],
            unwanted_by: Vec::new(),
        }
    }

    fn was_unwanted(&self, route: &Carried) -> bool {
        self.unwanted_by.contains(&route.placed.name)
    }

    /// Appends the events of a frame; where the event is, if it is one alone.
    async fn events(
        &mut self,
        head: &EventsHead,
        body: Bytes,
        routes: &mut [Carried],
    ) -> Result<Option<Range>, MoveError> {
        let one_by_one = routes
            .iter()
            .any(|it| it.placed.is_divided() && !it.filter.is_open());
        if !one_by_one || head.events == 1 {
            let ranges = self.append(body, head.events, routes).await?;
            let is_alone = head.events == 1;
            return Ok(ranges.ranges.first().copied().filter(|_| is_alone));
        }
        // Only so it is known of each where it went.
        let mut rest = body;
        while !rest.is_empty() {
            let (_, length) = wire::first_part(&rest, 1, usize::MAX);
            let one = rest.split_to(length.max(1));
            self.append(one, 1, routes).await?;
        }
        Ok(None)
    }

    async fn append(
        &mut self,
        body: Bytes,
        events: u32,
        routes: &mut [Carried],
    ) -> Result<Position, MoveError> {
        let decoded: Vec<_> = wire::events(&body).flatten().collect();
        let times = || decoded.iter().map(|event| event.ts);
        let (earliest, latest) = (times().min(), times().max());
        self.unwanted_by.clear();
        let mut unwanted = Vec::with_capacity(routes.len());
        for route in routes.iter() {
            let counts = route.placed.passes() && !route.filter.is_open();
            let is_unwanted = |event: &&Event<'_>| !route.filter.wants(event);
            let count = if counts {
                decoded.iter().filter(is_unwanted).count() as u64
            } else {
                0
            };
            if count > 0 && events == 1 {
                self.unwanted_by.push(route.placed.name.clone());
            }
            unwanted.push(count);
        }
        drop(decoded);
        let position = self.journal.append(EncodedBatch {
            body,
            events,
            earliest: earliest.unwrap_or(Timestamp::UNIX_EPOCH),
            latest: latest.unwrap_or(Timestamp::UNIX_EPOCH),
            is_own: false,
        });
        let position = position.await?;
        for range in &position.ranges {
            let end = self.ends.get_mut(range.partition as usize);
            match end {
                Some(end) if *end == range.first => *end = range.end(),
                _ => return refused(self.somebody_else(range.partition)),
            }
        }
        for (route, unwanted) in std::iter::zip(routes, unwanted) {
            route.placed.appended(&position.ranges, unwanted);
        }
        Ok(position)
    }

    /// Makes sure that nobody else has appended.
    async fn look_whole(&self) -> Result<(), MoveError> {
        self.journal.refresh().await?;
        for extent in self.journal.extents() {
            let end = self.ends.get(extent.partition as usize).copied();
            if Some(extent.end) != end {
                return refused(self.somebody_else(extent.partition));
            }
        }
        Ok(())
    }

    fn somebody_else(&self, partition: u32) -> String {
        format!(
            "somebody else writes to the journal: there are other events in partition {partition}"
        )
    }
}

/// All partitions of a route, which nobody else reads as long as this lives.
struct Whole {
    partitions: Vec<Box<dyn Assignment>>,
    // The last: with it goes the part in reading.
    _assignments: Box<dyn Assignments>,
}

impl Whole {
    /// Takes them.
    ///
    /// # Errors
    /// [`MoveError::Refused`]: somebody else has some.
    async fn take(
        journal: &dyn Journal,
        route: &str,
        partitions: usize,
    ) -> Result<Self, MoveError> {
        let mut assignments = journal.subscribe(route).await?;
        let until = Instant::now() + HANDED_OUT_WAIT_MAX;
        let mut taken = BTreeMap::new();
        while taken.len() < partitions {
            let Ok(assignment) = timeout_at(until, assignments.next()).await else {
                let missing = partitions - taken.len();
                return refused(format!(
                    "{missing} of {partitions} partitions of route `{route}` are not handed out: another process reads \
                     them; stop it"
                ));
            };
            let assignment = assignment?;
            taken.insert(assignment.partition(), assignment);
        }
        Ok(Self {
            partitions: taken.into_values().collect(),
            _assignments: assignments,
        })
    }
}

/// Saves where a route is in all partitions.
async fn commit(
    journal: &dyn Journal,
    route: &str,
    places: Vec<Place>,
    state: (Value, Value),
) -> Result<(), MoveError> {
    let whole = Whole::take(journal, route, places.len()).await?;
    // Both are in the order of their numbers.
    for (assignment, place) in std::iter::zip(&whole.partitions, places) {
        let Place {
            position,
            mut saved,
        } = place;
        (saved.processors, saved.sink) = state.clone();
        let state =
            serde_json::to_vec(&saved).map_err(|error| JournalError::Io(error.to_string()))?;
        let mut tries = 0;
        loop {
            let committed = async {
                let mut subscription = assignment.open().await?;
                // Or a try of ours was done though its answer was lost.
                if ![0, position].contains(&subscription.position()) {
                    let words = format!("route `{route}` has been read meanwhile");
                    return Err(JournalError::Lost(words));
                }
                subscription.commit(DeliveryId(position), &state).await
            };
            match committed.await {
                Ok(()) => break,
                Err(JournalError::Io(_)) if tries < COMMIT_TRIES => {
                    tries += 1;
                    sleep(COMMIT_PAUSE).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}
