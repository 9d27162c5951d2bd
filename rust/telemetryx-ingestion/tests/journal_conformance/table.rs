//! What the processes of a fleet know alike.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use telemetryx_ingestion::journal::{Followed, SharedTable, TableChange};

use crate::bench::Bench;
use crate::reader::{soon, until};

/// Everything that one who follows was told.
struct Follower {
    told: Arc<Mutex<Vec<TableChange>>>,
    _guard: Box<dyn Followed>,
}

impl Follower {
    fn of(table: &dyn SharedTable) -> Self {
        let told: Arc<Mutex<Vec<TableChange>>> = Arc::default();
        let note = Arc::clone(&told);
        let guard = table.follow(Box::new(move |change| note.lock().push(change)));
        Self {
            told,
            _guard: guard.unwrap(),
        }
    }

    async fn up_to_date(&self) {
        until("it is up to date", || async {
            self.told.lock().contains(&TableChange::UpToDate)
        })
        .await;
    }

    /// Waits until it was told of this sequence number, or a later one.
    async fn past(&self, sequence: u64) {
        until("the change is told", || async {
            self.told.lock().iter().any(|change| {
                matches!(change, TableChange::Value { sequence: at, .. } if *at >= sequence)
            })
        })
        .await;
    }

    /// The changes: sequence number, name, value. The numbers rise.
    #[track_caller]
    fn changes(&self) -> Vec<(u64, String, Option<Bytes>)> {
        let told = self.told.lock();
        let ends = told
            .iter()
            .filter(|change| **change == TableChange::UpToDate);
        assert!(ends.count() <= 1, "it is told once that it is up to date");
        let changes: Vec<_> = told
            .iter()
            .filter_map(|change| match change {
                TableChange::Value {
                    sequence,
                    name,
                    value,
                } => Some((*sequence, name.clone(), value.clone())),
                TableChange::UpToDate => None,
            })
            .collect();
        assert!(changes.is_sorted_by(|a, b| a.0 < b.0), "{changes:?}");
        changes
    }

    fn values(&self) -> BTreeMap<String, Bytes> {
        let mut values = BTreeMap::new();
        for (_, name, value) in self.changes() {
            match value {
                Some(value) => values.insert(name, value),
                None => values.remove(&name),
            };
        }
        values
    }
}

pub(crate) async fn values_come_in_one_order_to_all(bench: Bench) {
    let (first, second) = match bench.is_shared() {
        true => (bench.open().await, bench.open().await),
        // What only one process can open has none: nobody else is to know.
        false => return assert!(bench.open().await.table().is_none()),
    };
    let tables = [first.table().unwrap(), second.table().unwrap()];
    let followers = [Follower::of(&*tables[0]), Follower::of(&*tables[1])];
    for follower in &followers {
        follower.up_to_date().await;
        assert_eq!(follower.changes(), []);
    }
    let mut putting = tokio::task::JoinSet::new();
    for writer in 0..6 {
        let table = Arc::clone(&tables[writer % 2]);
        putting.spawn(async move {
            let mut last = 0;
            for turn in 0..20 {
                let value = format!("{writer} in {turn}");
                let entries = vec![
                    ("shared".to_owned(), Some(Bytes::from(value.clone()))),
                    (format!("own-{writer}"), Some(Bytes::from(value))),
                ];
                let sequence = soon("put", table.put(entries)).await.unwrap();
                assert!(sequence > last, "a later change has a higher number");
                last = sequence;
            }
            last
        });
    }
    let last = putting.join_all().await.into_iter().max().unwrap();
    for follower in &followers {
        follower.past(last).await;
    }
    // A value may be left out that another one had taken the place of before it was told, and nothing else may differ.
    let mut by_number = BTreeMap::new();
    for follower in &followers {
        for (sequence, name, value) in follower.changes() {
            let change = (name, value);
            let before = by_number.insert(sequence, change.clone());
            assert!(
                before.is_none_or(|before| before == change),
                "{sequence}: {change:?}"
            );
        }
        for writer in 0..6 {
            let own = format!("own-{writer}");
            let turns: Vec<u32> = follower
                .changes()
                .iter()
                .filter(|(_, name, _)| *name == own)
                .map(|(_, _, value)| {
                    let value = String::from_utf8(value.as_deref().unwrap().to_vec()).unwrap();
                    let (by, turn) = value.split_once(" in ").unwrap();
                    assert_eq!(by, writer.to_string());
                    turn.parse().unwrap()
                })
                .collect();
            assert!(turns.is_sorted_by(|a, b| a < b), "{turns:?}");
            assert_eq!(turns.last(), Some(&19));
        }
    }
    assert_eq!(followers[0].values(), followers[1].values());
    assert_eq!(followers[0].values().len(), 7);
}

pub(crate) async fn names_keep_their_newest_value(bench: Bench) {
    if !bench.is_shared() {
        return;
    }
    let large = Bytes::from(vec![7; 200 << 10]);
    let named = |name: &str, value: Option<Bytes>| (name.to_owned(), value);
    {
        let journal = bench.open().await;
        let table = journal.table().unwrap();
        let follower = Follower::of(&*table);
        for value in ["old", "older", "new"] {
            let entries = vec![
                named("changed", Some(value.into())),
                named("gone", Some(value.into())),
            ];
            soon("put", table.put(entries)).await.unwrap();
        }
        let entries = vec![
            named("gone", None),
            named("empty", Some(Bytes::new())),
            named("größe/ü \u{1f600}", Some(large.clone())),
            named("never there", None),
        ];
        let last = soon("put", table.put(entries)).await.unwrap();
        follower.past(last).await;
        // Not closed.
    }
    let journal = bench.open().await;
    let table = journal.table().unwrap();
    let follower = Follower::of(&*table);
    follower.up_to_date().await;
    let wanted = BTreeMap::from([
        ("changed".to_owned(), Bytes::from("new")),
        ("empty".to_owned(), Bytes::new()),
        ("größe/ü \u{1f600}".to_owned(), large),
    ]);
    assert_eq!(follower.values(), wanted);
    // Who follows twice is told twice, and who was dropped is told no more.
    let another = Follower::of(&*table);
    another.up_to_date().await;
    assert_eq!(another.values(), wanted);
    let told = Arc::clone(&another.told);
    drop(another);
    let before = told.lock().len();
    let last = soon(
        "put",
        table.put(vec![named("changed", Some("newest".into()))]),
    )
    .await
    .unwrap();
    follower.past(last).await;
    assert_eq!(follower.values()["changed"], "newest");
    assert_eq!(told.lock().len(), before);
}
