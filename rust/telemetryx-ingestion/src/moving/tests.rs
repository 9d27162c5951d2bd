//! Any journal into any other: in memory, with what became of every event known one by one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use smallvec::SmallVec;
use telemetryx_common::{Event, EventType, Timestamp, wire};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::FilterConfig;
use crate::control::{Control, DeadLetter, Stage};
use crate::journal::{
    Assignment, Assignments, Backlog, BatchLimit, Committed, Delivery, DeliveryId, Durability,
    EncodedBatch, Extent, Journal, JournalStatus, Position, Range, Slice, Subscription,
};
use crate::observe::DoorSaved;
use crate::processors::EventProcessor;
use crate::route::{Books, RouteFilter, Saved};
use crate::sinks::{DeliverError, Sink};

/// A journal in memory: of each partition what it holds, where it begins, and who is where.
#[derive(Default)]
struct Memory(Mutex<Held>);

#[derive(Default)]
struct Held {
    /// `None`: cannot be read any more.
    partitions: Vec<Vec<Option<Bytes>>>,
    starts: Vec<u64>,
    commits: BTreeMap<(String, u32), (u64, Bytes)>,
    state_bytes_max: usize,
}

fn id(bytes: &[u8]) -> String {
    let event = wire::events(bytes).next().unwrap().unwrap();
    event.id.to_string()
}

#[async_trait]
impl Journal for Arc<Memory> {
    async fn append(&self, batch: EncodedBatch) -> Result<Position, AppendError> {
        let mut held = self.0.lock();
        let mut ranges = SmallVec::<[Range; 1]>::new();
        let mut rest = batch.body;
        while !rest.is_empty() {
            let (_, length) = wire::first_part(&rest, 1, usize::MAX);
            let one = rest.split_to(length);
            let event = wire::events(&one).next().unwrap().unwrap();
            let key = crc32c::crc32c(event.key().as_bytes());
            let partition = key % held.partitions.len() as u32;
            let events = &mut held.partitions[partition as usize];
            let first = events.len() as u64;
            events.push(Some(one));
            match ranges.last_mut() {
                Some(last) if last.partition == partition => last.events += 1,
                _ => ranges.push(Range {
                    partition,
                    first,
                    events: 1,
                }),
            }
        }
        Ok(Position { ranges })
    }
    fn durability(&self) -> Durability {
        Durability::Committed
    }
    async fn subscribe(&self, route: &str) -> Result<Box<dyn Assignments>, JournalError> {
        let partitions = self.0.lock().partitions.len() as u32;
        Ok(Box::new(Whole {
            memory: Arc::clone(self),
            route: route.to_owned(),
            left: (0..partitions).collect(),
        }))
    }
    fn identity(&self) -> u128 {
        7
    }
    fn status(&self) -> JournalStatus {
        JournalStatus {
            engine: "memory",
            state: "ok",
            reason: None,
            since: None,
            start_offset: 0,
            end_offset: 0,
            segments: None,
            bytes: 0,
            damage: Vec::new(),
            warnings: Vec::new(),
            spill: None,
        }
    }
    fn backlog(&self) -> Backlog {
        Backlog::default()
    }
    fn extents(&self) -> Vec<Extent> {
        let held = self.0.lock();
        let extents = held.partitions.iter().zip(&held.starts).enumerate();
        let extents = extents.map(|(partition, (events, start))| Extent {
            partition: partition as u32,
            start: *start,
            end: events.len() as u64,
        });
        extents.collect()
    }
    fn commits(&self, route: &str) -> Vec<Committed> {
        let held = self.0.lock();
        let commits = held.commits.iter().filter(|((name, _), _)| name == route);
        let commits = commits.map(|((_, partition), (position, state))| Committed {
            partition: *partition,
            position: *position,
            state: state.clone(),
        });
        commits.collect()
    }
    fn state_bytes_max(&self) -> usize {
        self.0.lock().state_bytes_max
    }
    async fn refresh(&self) -> Result<(), JournalError> {
        Ok(())
    }
    async fn scan(
        &self,
        partition: u32,
        from: u64,
        to: u64,
        _: BatchLimit,
    ) -> Result<Delivery, JournalError> {
        let held = self.0.lock();
        let mut delivery = Delivery::at(partition, from);
        // Never all at once.
        for offset in from..to.min(from + 11) {
            match &held.partitions[partition as usize][offset as usize] {
                Some(body) => delivery.push(Slice {
                    first: offset,
                    events: 1,
                    body: body.clone(),
                }),
                None => {
                    delivery.missing += 1;
                    delivery.gaps.push("1 event: damaged on disk".to_owned());
                    delivery.end = offset + 1;
                }
            }
        }
        Ok(delivery)
    }
    async fn offset_at(&self, _: u32, _: Timestamp) -> Result<u64, JournalError> {
        Ok(0)
    }
    async fn close(&self) {}
}

struct Whole {
    memory: Arc<Memory>,
    route: String,
    left: Vec<u32>,
}

#[async_trait]
impl Assignments for Whole {
    async fn next(&mut self) -> Result<Box<dyn Assignment>, JournalError> {
        let partition = self.left.pop().ok_or(JournalError::Closed)?;
        Ok(Box::new(Part {
            memory: Arc::clone(&self.memory),
            route: self.route.clone(),
            partition,
            state: Bytes::new(),
        }))
    }
}

#[derive(Clone)]
struct Part {
    memory: Arc<Memory>,
    route: String,
    partition: u32,
    state: Bytes,
}

#[async_trait]
impl Assignment for Part {
    fn partition(&self) -> u32 {
        self.partition
    }
    fn identity(&self) -> u128 {
        self.memory.identity()
    }
    fn revoked(&self) -> CancellationToken {
        CancellationToken::new()
    }
    async fn open(&self) -> Result<Box<dyn Subscription>, JournalError> {
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl Subscription for Part {
    async fn next(&mut self, _: BatchLimit) -> Result<Delivery, JournalError> {
        Err(JournalError::Closed)
    }
    fn has_more(&self) -> bool {
        false
    }
    fn position(&self) -> u64 {
        0
    }
    fn state(&self) -> &[u8] {
        &self.state
    }
    async fn commit(&mut self, delivered: DeliveryId, state: &[u8]) -> Result<(), JournalError> {
        let mut held = self.memory.0.lock();
        let of = (self.route.clone(), self.partition);
        held.commits
            .insert(of, (delivered.0, Bytes::copy_from_slice(state)));
        Ok(())
    }
}

/// Takes everything, and knows nothing.
struct Nowhere;

#[async_trait]
impl Sink for Nowhere {
    async fn deliver(&self, _: &crate::route::EventBatch<'_>) -> Result<(), DeliverError> {
        Ok(())
    }
    async fn check(&self) -> Result<(), DeliverError> {
        Ok(())
    }
}

/// What became of an event in a route that has passed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Delivered,
    Filtered,
    Dead,
    Expired,
}

fn book(books: &mut Books, fate: Fate) {
    match fate {
        Fate::Delivered => books.delivered += 1,
        Fate::Filtered => books.filtered += 1,
        Fate::Dead => books.dead += 1,
        Fate::Expired => books.expired += 1,
    }
}

/// A journal with routes somewhere in it.
struct World {
    memory: Arc<Memory>,
    routes: Vec<String>,
    /// Of each route and partition.
    positions: Vec<Vec<u64>>,
    /// By route, of the events that it has passed; by partition and offset.
    fates: Vec<HashMap<(u32, u64), Fate>>,
    letters: Vec<DeadLetter>,
}

fn wants_only_a() -> FilterConfig {
    toml::from_str("types = ['a']").unwrap()
}

/// Route 0 wants events of type `a` only; the others all.
fn filter(route: usize) -> RouteFilter {
    match route {
        0 => RouteFilter::new(&wants_only_a(), None),
        _ => RouteFilter::default(),
    }
}

impl World {
    fn random(random: &mut fastrand::Rng) -> Self {
        let routes: Vec<_> = (0..random.usize(1..4)).map(|n| format!("r{n}")).collect();
        let mut held = Held {
            state_bytes_max: usize::MAX,
            ..Held::default()
        };
        let mut positions = vec![Vec::new(); routes.len()];
        let mut fates = vec![HashMap::new(); routes.len()];
        let mut letters = Vec::new();
        for partition in 0..random.u32(1..5) {
            let start = random.u64(0..4);
            let mut events: Vec<Option<Bytes>> = vec![None; start as usize];
            let mut numbers = [0; 4];
            for _ in 0..random.usize(0..40) {
                let key = random.usize(0..4);
                numbers[key] += 1;
                let (name, number) = (format!("{partition}k{key}"), numbers[key]);
                let now = Timestamp::from_unix_nanos(random.i64(0..1000));
                let kind = if random.bool() { "a" } else { "b" };
                let event = Event {
                    event_type: EventType::from_name(kind.into()),
                    partition_key: Some(name.as_str().into()),
                    received_at: now,
                    ..Event::new(now)
                };
                let mut bytes = Vec::new();
                wire::encode_event(&event, &format!("{name}:{number:03}"), &mut bytes);
                let is_gone = random.u32(0..12) == 0;
                events.push((!is_gone).then(|| bytes.into()));
            }
            for (route, name) in routes.iter().enumerate() {
                let position = match random.u32(0..4) {
                    0 => events.len() as u64,
                    _ => random.u64(0..=events.len() as u64),
                };
                let mut books = Books::default();
                for offset in 0..position {
                    let event = &events[offset as usize];
                    let decoded = event.as_ref();
                    let decoded = decoded.map(|it| wire::events(it).next().unwrap().unwrap());
                    let fate = match decoded {
                        None if random.bool() => Fate::Expired,
                        Some(event) if !filter(route).wants(&event) => Fate::Filtered,
                        _ if random.u32(0..6) == 0 => Fate::Dead,
                        _ => Fate::Delivered,
                    };
                    if fate == Fate::Dead {
                        letters.push(DeadLetter {
                            route: Some(name.clone()),
                            stage: Stage::Delivery,
                            code: "rejected".into(),
                            field: None,
                            message: "no".into(),
                            partition,
                            offset: Some(offset),
                            format: "stored",
                            body: event.as_ref().map_or_else(Vec::new, |it| it.to_vec()),
                            request_id: None,
                        });
                    }
                    book(&mut books, fate);
                    fates[route].insert((partition, offset), fate);
                }
                positions[route].push(position);
                let saved = Saved {
                    books,
                    ..Saved::default()
                };
                let state = serde_json::to_vec(&saved).unwrap();
                let of = (name.clone(), partition);
                held.commits.insert(of, (position, state.into()));
            }
            held.partitions.push(events);
            held.starts.push(start);
        }
        Self {
            memory: Arc::new(Memory(Mutex::new(held))),
            routes,
            positions,
            fates,
            letters,
        }
    }

    /// The routes are one behind the other in all partitions, or there is one.
    fn is_chain(&self) -> bool {
        let held = self.memory.0.lock();
        let clamped: Vec<Vec<_>> = self
            .positions
            .iter()
            .map(|it| {
                it.iter()
                    .zip(&held.starts)
                    .map(|(at, start)| *at.max(start))
                    .collect()
            })
            .collect();
        let is_behind = |one: &[u64], other: &[u64]| one.iter().zip(other).all(|(a, b)| a <= b);
        clamped.iter().all(|one| {
            let mut others = clamped.iter();
            others.all(|other| is_behind(one, other) || is_behind(other, one))
        })
    }

    fn descriptions(&self) -> Vec<Route> {
        let route = |name: &String| Route {
            name: name.clone(),
            sink: "nowhere".into(),
            processors: Vec::new(),
            remembers_offsets: false,
        };
        self.routes.iter().map(route).collect()
    }

    async fn export(&self, control: &Control, only_undelivered: bool) -> Vec<u8> {
        let db = control.reader().unwrap();
        let source = Source {
            journal: &self.memory,
            letters: &db,
            routes: self.descriptions(),
            door: DoorSaved::default(),
            since: Timestamp::UNIX_EPOCH,
            only_undelivered,
            accept_doubles: false,
        };
        let file = FileWriter::begin(Vec::new()).unwrap();
        export(source, file, |_, _| {}).await.unwrap().1
    }

    fn new_routes(&self) -> Vec<NewRoute> {
        let routes = self.descriptions().into_iter().enumerate();
        let routes = routes.map(|(number, route)| NewRoute {
            route,
            filter: filter(number),
            processors: Vec::new(),
            sink: Box::new(Nowhere),
        });
        routes.collect()
    }
}

fn empty(partitions: usize) -> Arc<Memory> {
    Arc::new(Memory(Mutex::new(Held {
        partitions: vec![Vec::new(); partitions],
        starts: vec![0; partitions],
        commits: BTreeMap::new(),
        state_bytes_max: usize::MAX,
    })))
}

fn control() -> (tempfile::TempDir, Control) {
    let dir = tempfile::tempdir().unwrap();
    let control = Control::start(dir.path(), u64::MAX).unwrap();
    (dir, control)
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(work)
}

async fn import_into(
    memory: &Arc<Memory>,
    control: &Control,
    routes: Vec<NewRoute>,
    file: &[u8],
) -> Result<Imported, MoveError> {
    verify(&mut FileReader::begin(file)?, |_| {})?;
    let target = Target {
        journal: memory,
        control,
        routes,
    };
    import(target, &mut FileReader::begin(file)?, |_, _| {}).await
}

async fn check_move(seed: u64, old: &Control, new_control: &Control) {
    for control in [old, new_control] {
        let db = control.reader().unwrap();
        db.execute("DELETE FROM dead_letters", []).unwrap();
    }
    let mut random = fastrand::Rng::with_seed(seed);
    let world = World::random(&mut random);
    old.keep(world.letters.clone(), None).await.unwrap();
    let only_undelivered = random.u32(0..4) == 0;
    let file = world.export(old, only_undelivered).await;
    let new = empty(random.usize(1..4));
    let imported = import_into(&new, new_control, world.new_routes(), &file).await;
    let imported = imported.unwrap_or_else(|error| panic!("seed {seed}: {error}"));

    // It can be carried on at once: no sink has had anything by the new offsets.
    for route in world.new_routes() {
        for committed in new.saved(&route.route.name).await.unwrap() {
            let saved = Saved::read(&committed.state, committed.position).unwrap();
            assert!(saved.rests, "seed {seed}");
        }
    }
    let is_chain = world.is_chain();
    // Every event that was held is there once, those of a key in order.
    let (held, moved) = (world.memory.0.lock(), new.0.lock());
    let mut places = HashMap::new();
    for (partition, events) in moved.partitions.iter().enumerate() {
        let mut last = HashMap::new();
        for (offset, event) in events.iter().enumerate() {
            let id = id(event.as_ref().unwrap());
            let key = id.split_once(':').unwrap().0.to_owned();
            let before = last.insert(key, id.clone());
            assert!(
                before < Some(id.clone()),
                "seed {seed}: {id} after {before:?}"
            );
            let place = (partition as u32, offset as u64);
            assert_eq!(places.insert(id, place), None, "seed {seed}");
        }
    }
    let mut accepted = 0;
    let mut old_ids = HashMap::new();
    for (partition, events) in held.partitions.iter().enumerate() {
        accepted += events.len() as u64;
        for (offset, event) in events.iter().enumerate() {
            if let Some(event) = event {
                old_ids.insert((partition as u32, offset as u64), id(event));
            }
        }
    }
    if !only_undelivered {
        assert_eq!(places.len(), old_ids.len(), "seed {seed}");
    }
    assert_eq!(
        imported.carried,
        accepted - places.len() as u64,
        "seed {seed}"
    );
    let mut expected_letters = BTreeSet::new();
    for (number, route) in imported.routes.iter().enumerate() {
        assert_eq!(route.name, world.routes[number]);
        let mut saved = Books::default();
        let mut positions = HashMap::new();
        let mut carried = 0;
        for partition in 0..moved.partitions.len() as u32 {
            let (position, state) = &moved.commits[&(route.name.clone(), partition)];
            let state = Saved::read(state, 0).unwrap();
            // What a dead letter is taken out of when it is sent again.
            assert_eq!(
                state.books.passed(),
                position + state.carried,
                "seed {seed}"
            );
            saved.add(state.books);
            carried += state.carried;
            positions.insert(partition, *position);
        }
        assert_eq!(carried, imported.carried, "seed {seed}");
        let mut books = Books::default();
        let mut again = 0;
        for partition in 0..held.partitions.len() as u32 {
            for offset in 0..held.partitions[partition as usize].len() as u64 {
                let fate = world.fates[number].get(&(partition, offset)).copied();
                let new_place = old_ids
                    .get(&(partition, offset))
                    .and_then(|id| places.get(id));
                match (fate, new_place) {
                    // Never skipped.
                    (None, Some(place)) => assert!(place.1 >= positions[&place.0], "seed {seed}"),
                    (None, None) => books.expired += 1,
                    (Some(_), Some(place)) if place.1 >= positions[&place.0] => again += 1,
                    (Some(fate), place) => {
                        book(&mut books, fate);
                        if fate == Fate::Dead {
                            let place = place.map_or((0, None), |it| (it.0, Some(it.1)));
                            let old = (partition, offset);
                            expected_letters.insert((route.name.clone(), place, old_ids.get(&old)));
                        }
                    }
                }
            }
        }
        assert_eq!(
            (route.again, saved),
            (again, books),
            "seed {seed}, {}",
            route.name
        );
        assert_eq!(route.books, saved);
        if is_chain {
            assert_eq!(again, 0, "seed {seed}: one behind the other");
        }
        let pending = places.len() as u64 - positions.values().sum::<u64>();
        assert_eq!(
            accepted,
            saved.passed() + pending,
            "seed {seed}: the books balance"
        );
        assert_eq!(route.pending, pending);
    }
    let db = new_control.reader().unwrap();
    let letters = crate::control::letters::list(&db, &Default::default(), None, u32::MAX).unwrap();
    let mut without_event = 0;
    for letter in &letters {
        let route = letter.route.clone().unwrap();
        let place = (letter.partition, letter.offset);
        if letter.offset.is_none() && letter.body.is_empty() {
            without_event += 1;
            continue;
        }
        let id = id(&letter.body);
        let found = expected_letters
            .iter()
            .any(|(name, at, expected)| *name == route && *at == place && *expected == Some(&id));
        assert!(found, "seed {seed}: {letter:?}");
    }
    let expected = world.letters.len();
    assert!(letters.len() <= expected && without_event <= letters.len());
    let dead: u64 = imported.routes.iter().map(|route| route.books.dead).sum();
    assert_eq!(
        letters.len() as u64,
        dead,
        "seed {seed}: a letter for each that is dead"
    );
}

#[test]
fn any_journal_goes_on_in_any_other_and_no_event_is_skipped() {
    run(async {
        let ((_old_dir, old), (_new_dir, new)) = (control(), control());
        for seed in 0..300 {
            check_move(seed, &old, &new).await;
        }
    });
}

#[test]
fn journal_that_is_not_empty_is_refused() {
    run(async {
        let world = World::random(&mut fastrand::Rng::with_seed(3));
        let (_dir, control) = control();
        let file = world.export(&control, false).await;
        let taken = import_into(&world.memory, &control, world.new_routes(), &file).await;
        assert!(matches!(taken, Err(MoveError::NotEmpty(_))), "{taken:?}");
    });
}

/// Keeps what it was handed back.
struct Keeps;

#[async_trait]
impl EventProcessor for Keeps {
    async fn process_event(
        &self,
        _: &mut crate::route::EventBatch<'_>,
    ) -> Result<(), crate::processors::ProcessingError> {
        Ok(())
    }
}

#[test]
fn state_that_does_not_fit_is_refused_before_anything_is_written() {
    run(async {
        let memory = empty(1);
        let event = Event::new(Timestamp::UNIX_EPOCH);
        let mut body = Vec::new();
        wire::encode_event(&event, "a", &mut body);
        memory.0.lock().partitions[0].push(Some(body.into()));
        let saved = Saved {
            processors: serde_json::json!({ "0:Keeps": "x".repeat(5000) }),
            ..Saved::default()
        };
        let state = serde_json::to_vec(&saved).unwrap();
        let of = ("r0".to_owned(), 0);
        memory.0.lock().commits.insert(of, (0, state.into()));
        let world = World {
            memory,
            routes: vec!["r0".into()],
            positions: Vec::new(),
            fates: Vec::new(),
            letters: Vec::new(),
        };
        let (_dir, control) = control();
        let file = world.export(&control, false).await;
        let routes = || {
            let mut routes = world.new_routes();
            routes[0].processors = vec![("Keeps".into(), Box::new(Keeps) as Box<_>)];
            routes
        };
        let small = empty(1);
        small.0.lock().state_bytes_max = 4096;
        let error = import_into(&small, &control, routes(), &file).await;
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("route `r0`") && error.contains("4096"),
            "{error}"
        );
        assert!(small.0.lock().partitions[0].is_empty() && small.0.lock().commits.is_empty());
        // Where it fits it goes along.
        let large = empty(1);
        import_into(&large, &control, routes(), &file)
            .await
            .unwrap();
        let (_, state) = large.0.lock().commits[&("r0".to_owned(), 0)].clone();
        assert_eq!(Saved::read(&state, 0).unwrap().processors, saved.processors);
        // Among several partitions nobody can divide it.
        let several = empty(2);
        several.0.lock().state_bytes_max = 4096;
        let imported = import_into(&several, &control, routes(), &file)
            .await
            .unwrap();
        assert!(
            imported.notes[0].contains("0:Keeps"),
            "{:?}",
            imported.notes
        );
    });
}

#[test]
fn sink_that_knows_offsets_must_have_ended_in_order() {
    run(async {
        let world = World::random(&mut fastrand::Rng::with_seed(5));
        let (_dir, control) = control();
        let db = control.reader().unwrap();
        let export_with = async |accept_doubles| {
            let mut routes = world.descriptions();
            routes
                .iter_mut()
                .for_each(|route| route.remembers_offsets = true);
            let source = Source {
                journal: &world.memory,
                letters: &db,
                routes,
                door: DoorSaved::default(),
                since: Timestamp::UNIX_EPOCH,
                only_undelivered: false,
                accept_doubles,
            };
            let file = FileWriter::begin(Vec::new()).unwrap();
            export(source, file, |_, _| {}).await.map(drop)
        };
        let refused = export_with(false).await.unwrap_err().to_string();
        assert!(refused.contains("did not end in order"), "{refused}");
        export_with(true).await.unwrap();
        for (_, state) in world.memory.0.lock().commits.values_mut() {
            let saved = Saved {
                rests: true,
                ..Saved::read(state, 0).unwrap()
            };
            *state = serde_json::to_vec(&saved).unwrap().into();
        }
        export_with(false).await.unwrap();
    });
}
